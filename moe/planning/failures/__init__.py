"""Failures of machines and what they cost a run."""
