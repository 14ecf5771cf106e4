"""What there is to run on, and how fast it does counted work."""
