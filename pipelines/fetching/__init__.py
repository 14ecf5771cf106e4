"""Real checkpoints and real text, brought without a model hub."""
