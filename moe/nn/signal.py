"""Signals that the backward pass of a layer is complete, so that its gradients can be sent at once.

The signal is placed before the layer, so its backward pass runs after the layer's. Autograd adds a
gradient to its leaf as soon as it is computed, so when the signal is reached, all gradients of the
layer are complete. This also holds for recomputed layers, whose gradients are added inside their
backward pass.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Reached = Callable[[int], None]


def signal(x: Tensor, reached: Reached, layer: int) -> Tensor:
    """Return x; its backward pass calls ``reached`` with the number of the layer."""
    passed: Tensor = _Signal.apply(x, reached, layer)  # type: ignore[no-untyped-call]
    return passed


class _Signal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, reached: Reached, layer: int) -> Tensor:
        ctx.reached, ctx.layer = reached, layer
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        ctx.reached(ctx.layer)
        return grads[0], None, None
