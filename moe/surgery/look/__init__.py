"""What the experts of a model are like and what they do, layer by layer from the files."""
