"""Shares that change their ranks in a living run: who sends what, and where it is put."""
