"""What changes owner between two plans."""
