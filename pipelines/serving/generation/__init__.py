"""From the tokens of a prompt to an answer: the queue of generations, and their results."""
