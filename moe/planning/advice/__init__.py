"""Advice before a run: what to train."""
