"""From a prompt's tokens to an answer: which request the engine works on, and what came of it."""
