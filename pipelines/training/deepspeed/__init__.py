"""Runs whose workers train with DeepSpeed: data parallel alone, each with the whole model."""
