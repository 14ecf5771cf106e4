"""Fewer experts out of more: which are kept or merged, and the smaller model, streamed."""
