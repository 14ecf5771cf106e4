"""Which rank holds which experts, by measured load."""
