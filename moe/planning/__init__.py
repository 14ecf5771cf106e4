"""Who holds what, and how fast that will be. No torch."""
