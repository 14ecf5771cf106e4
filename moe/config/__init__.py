"""Frozen values that describe a model and a run. No torch, no ray."""
