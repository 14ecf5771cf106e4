"""One rank's part of generation."""
