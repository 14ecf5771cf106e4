"""From conversations, instructions and preferences to rows of tokens with marked answers."""
