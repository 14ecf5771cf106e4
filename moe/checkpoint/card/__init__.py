"""The README of a model directory: what the Hugging Face hub calls a model card."""
