"""What a person types: one file a command, its arguments and what it prints."""
