"""Kinds of weight matrices, each behind ``moe.nn.weights.weight.Weight``."""
