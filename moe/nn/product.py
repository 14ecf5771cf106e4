"""Matrix products by the fastest library that torch carries for the processor.

torch multiplies float32 matrices on CPUs with MKL, which runs at less than half speed on processors
of other makers; oneDNN, in the same build of torch, does not. Measured figures are in
benchmarks/README.md. Which library is used depends on types and devices alone, never on a
measurement, so that a run that is resumed computes the same bits.

With a ``Later`` the gradient of the weight waits (``moe.nn.later``).

Everything else, GPUs and bfloat16 among it, goes through ``torch.nn.functional.linear``.

Shapes: M rows, N outputs, K inputs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from moe.nn.later import Later

_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def product(x_MK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias``, [M, N]; any strides. Not recorded for a backward pass."""
    if _by_onednn(x_MK, weight_NK):
        y_MN: Tensor = torch.ops.mkldnn._linear_pointwise(x_MK, weight_NK, bias_N, "none", [], "")
        return y_MN
    return F.linear(x_MK, weight_NK, bias_N)


def linear(
    x: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None, later: Later | None = None
) -> Tensor:
    """Return ``x @ weight.T + bias`` over the last dimension of x, differentiable once."""
    autocast, grad = torch.is_autocast_enabled(x.device.type), torch.is_grad_enabled()
    if (later is None or not grad) and (autocast or not _by_onednn(x, weight_NK)):
        return F.linear(x, weight_NK, bias_N)
    if not grad:
        return product(x.flatten(0, -2), weight_NK, bias_N).view(*x.shape[:-1], -1)
    dtype = torch.get_autocast_dtype(x.device.type) if autocast else x.dtype
    with torch.autocast(x.device.type, enabled=False):
        y: Tensor = _Linear.apply(x, weight_NK, bias_N, dtype, later)  # type: ignore[no-untyped-call]
    return y


class Linear(nn.Linear):
    """A linear layer over ``linear``."""

    def forward(self, input: Tensor, later: Later | None = None) -> Tensor:  # torch's name
        """Apply the layer to the last dimension."""
        return linear(input, self.weight, self.bias, later)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_NK: Tensor,
        bias_N: Tensor | None,
        dtype: torch.dtype,
        later: Later | None,
    ) -> Tensor:
        rows_MK = x.flatten(0, -2).to(dtype)
        ctx.save_for_backward(rows_MK, weight_NK)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        ctx.later, ctx.weight = later, weight_NK
        bias = None if bias_N is None else bias_N.to(dtype)
        return product(rows_MK, weight_NK.to(dtype), bias).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_MK, weight_NK = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_MN, later = grads[0].flatten(0, -2), ctx.later
        x_grad = weight_grad = None
        if wants_x:
            x_grad = product(grad_MN, weight_NK.to(x_MK.dtype).t())
            x_grad = x_grad.view(ctx.shape).to(ctx.dtype)
        if wants_weight and later is None:
            weight_grad = product(grad_MN.t(), x_MK.t()).to(weight_NK.dtype)
        elif wants_weight:
            later.add([(ctx.weight, lambda: product(grad_MN.t(), x_MK.t()))])
        bias_grad = grad_MN.sum(dim=0).to(weight_NK.dtype) if wants_bias else None
        return x_grad, weight_grad, bias_grad, None, None


def _by_onednn(x: Tensor, weight_NK: Tensor) -> bool:
    return (
        x.is_cpu
        and x.dtype == weight_NK.dtype == torch.float32
        and x.numel() > 0
        and weight_NK.numel() > 0
        and _HAS_ONEDNN
    )
