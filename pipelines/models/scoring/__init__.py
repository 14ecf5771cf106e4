"""What a model thinks of texts: in this process, or on the actors of a plan."""
