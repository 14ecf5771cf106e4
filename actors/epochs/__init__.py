"""Membership epochs: which ranks take part now, and the process groups they meet in."""
