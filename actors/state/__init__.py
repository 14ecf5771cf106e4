"""Checkpoints of ranks that go on training: taken, written beside, completed by the engine."""
