"""Calls of functions in a model's text: how they are written, read and forced."""
