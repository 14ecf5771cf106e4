"""Gradients of weights that wait: the part of a backward pass that no other stage waits for.

Zero-bubble schedules (arXiv 2401.10241) cut the backward pass of a chunk in two: first the gradient
of its input, which the chunk before needs, then those of its weights. A product that is given a
``Later`` puts the second off: its backward pass leaves what it takes to compute them there.

What waits are the products of matrices, nearly all of the work. Norms, biases, the embedding, and
the head, whose gradient exists before the backward pass begins, do not.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Gradient = Callable[[], Tensor]


class Later:
    """What one micro-batch left to do for the weights of one chunk."""

    def __init__(self) -> None:
        self._work: list[tuple[Tensor, Gradient]] = []

    def add(self, weights: Iterable[tuple[Tensor, Gradient]]) -> None:
        """Leave gradients of weights, which are leaves, to be computed and added to them."""
        self._work.extend(weights)

    @torch.no_grad()
    def run(self) -> None:
        """Compute what was left, the last first, and let go of what it took."""
        work, self._work = self._work, []
        for weight, gradient in reversed(work):
            found = gradient().to(weight.dtype)
            weight.grad = found if weight.grad is None else weight.grad.add_(found)
