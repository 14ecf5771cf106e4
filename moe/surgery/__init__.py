"""Weights to other weights: dense to mixture-of-experts."""
