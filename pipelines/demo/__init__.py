"""The demo: one real model, real text, every step of the way."""
