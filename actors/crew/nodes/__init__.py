"""Where the actors of a plan go: what they ask, what nodes have, and a decision beforehand."""
