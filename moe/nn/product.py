"""Matrix products by the fastest library that torch carries for the processor.

torch multiplies float32 matrices on CPUs with MKL, which runs at less than half speed on processors
of other makers; oneDNN, in the same build of torch, does not. Measured figures are in
benchmarks/README.md. Which library is used depends on types and devices alone, never on a
measurement, so that a run that is resumed computes the same bits.

Everything else, GPUs and bfloat16 among it, goes through ``torch.nn.functional.linear``.

Shapes: M rows, N outputs, K inputs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def product(x_MK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias``, [M, N]; any strides. Not recorded for a backward pass."""
    if _by_onednn(x_MK, weight_NK):
        y_MN: Tensor = torch.ops.mkldnn._linear_pointwise(x_MK, weight_NK, bias_N, "none", [], "")
        return y_MN
    return F.linear(x_MK, weight_NK, bias_N)


def linear(x: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias`` over the last dimension of x, differentiable once."""
    if torch.is_autocast_enabled(x.device.type) or not _by_onednn(x, weight_NK):
        return F.linear(x, weight_NK, bias_N)
    if not torch.is_grad_enabled():
        return product(x.flatten(0, -2), weight_NK, bias_N).view(*x.shape[:-1], -1)
    y: Tensor = _Linear.apply(x, weight_NK, bias_N)  # type: ignore[no-untyped-call]
    return y


class Linear(nn.Linear):
    """A linear layer over ``linear``."""

    def forward(self, input: Tensor) -> Tensor:  # the name torch gave it
        """Apply the layer to the last dimension."""
        return linear(input, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight_NK)
        return product(x.flatten(0, -2), weight_NK, bias_N).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight_NK = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        grad_MN, x_MK = grads[0].flatten(0, -2), x.flatten(0, -2)
        return (
            product(grad_MN, weight_NK.t()).view_as(x) if wants_x else None,
            product(grad_MN.t(), x_MK.t()) if wants_weight else None,
            grad_MN.sum(dim=0) if wants_bias else None,
        )


def _by_onednn(x: Tensor, weight_NK: Tensor) -> bool:
    return (
        x.is_cpu
        and x.dtype == weight_NK.dtype == torch.float32
        and x.numel() > 0
        and weight_NK.numel() > 0
        and _HAS_ONEDNN
    )
