"""One rank of a run: the actor that hosts it, and what it holds and does."""
