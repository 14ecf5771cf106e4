"""A training run: the Ray Train workers that drive it, its checkpoints, its reports."""
