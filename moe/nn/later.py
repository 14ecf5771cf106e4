"""Deferred gradients of weights: the part of a backward pass for which no other stage waits.

Zero-bubble schedules (arXiv 2401.10241) cut the backward pass of a chunk in two: first the gradient
of its input, which the previous chunk needs, then the gradients of its weights. A product with a
``Later`` defers the second part: its backward pass stores in the ``Later`` the functions that
compute these gradients.

Matrix products are deferred, which are nearly all of the work. Norms, biases and the embedding are
not, nor is the head, whose gradient exists before the backward pass begins.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

Gradient = Callable[[], Tensor]


class Leaves(Protocol):
    """Several leaf tensors whose gradients come as one."""

    def accumulate(self, gradient: Tensor) -> None:
        """Add to the gradient of each."""


class Later:
    """The deferred work of one micro-batch for the weights of one chunk."""

    def __init__(self) -> None:
        self._work: list[tuple[Tensor | Leaves, Gradient]] = []

    def add(self, weights: Iterable[tuple[Tensor | Leaves, Gradient]]) -> None:
        """Defer the gradients of weights; ``run`` computes each and adds it to its leaf tensor."""
        self._work.extend(weights)

    @torch.no_grad()
    def run(self) -> None:
        """Compute the deferred gradients, the last first, and release their inputs."""
        work, self._work = self._work, []
        for weight, gradient in reversed(work):
            found = gradient()
            if not isinstance(weight, Tensor):
                weight.accumulate(found)
            elif weight.grad is None:
                weight.grad = found.to(weight.grad_dtype)
            else:
                weight.grad.add_(found)
