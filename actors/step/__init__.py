"""One training step of one rank: its schedule, its messages, its gradients and its optimiser."""
