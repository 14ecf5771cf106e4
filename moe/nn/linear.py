"""Linear layers over any kind of weight, differentiable once.

With a ``Later``, the gradient of the weight is deferred (``moe.nn.later``).

Shapes: M rows, N outputs, K inputs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from moe.nn.factors import Factors
from moe.nn.later import Later
from moe.nn.product import is_ruled
from moe.nn.weights.dense import Dense
from moe.nn.weights.weight import Weight


def linear(
    x: Tensor, weight: Weight, bias_N: Tensor | None = None, later: Later | None = None
) -> Tensor:
    """Return ``x @ weight.T + bias`` over the last dimension of x, in the type of x.

    A plain tensor for which torch has the fastest product goes through torch's own function and
    autograd.
    """
    grad = torch.is_grad_enabled()
    waits = later is not None and grad
    if isinstance(weight, Dense) and not waits and not is_ruled(x, weight.value):
        bias_N = None if bias_N is None else bias_N.to(x.dtype)
        return F.linear(x, weight.value.to(x.dtype), bias_N)
    if not grad:
        return _forward(x.flatten(0, -2), weight, bias_N).view(*x.shape[:-1], -1)
    arguments = (x, bias_N, weight, later, *weight.parameters)
    y: Tensor = _Linear.apply(*arguments)  # type: ignore[no-untyped-call]
    return y


class Linear(nn.Linear):
    """A linear layer over ``linear``; ``adapter`` are the factors beside its weight, if any."""

    def __init__(
        self, inputs: int, outputs: int, bias: bool = True, adapter: Factors | None = None
    ) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.adapter = adapter

    @property
    def matrix(self) -> Weight:
        """The weight as an operand of products, without factors."""
        return Dense(self.weight)

    def forward(self, input: Tensor, later: Later | None = None) -> Tensor:  # torch's name
        """Apply the layer to the last dimension."""
        y = linear(input, self.matrix, self.bias, later)
        return y if self.adapter is None else y + self.adapter(input)


def _forward(x_MK: Tensor, weight: Weight, bias_N: Tensor | None) -> Tensor:
    return weight.product(x_MK, None if bias_N is None else bias_N.to(x_MK.dtype))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bias_N: Tensor | None,
        weight: Weight,
        later: Later | None,
        *parameters: Tensor,
    ) -> Tensor:
        rows_MK = x.flatten(0, -2)
        ctx.save_for_backward(rows_MK, *parameters)
        ctx.shape = x.shape
        ctx.later, ctx.weight, ctx.bias_dtype = later, weight, bias_N is not None and bias_N.dtype
        return _forward(rows_MK, weight, bias_N).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_MK, *parameters = ctx.saved_tensors
        (wants_x, wants_bias), wants_weight = ctx.needs_input_grad[:2], ctx.needs_input_grad[4:]
        grad_MN, later = grads[0].flatten(0, -2), ctx.later
        x_grad = None
        if wants_x:
            x_grad = ctx.weight.input_gradient(grad_MN).view(ctx.shape)
        found: list[Tensor | None] = [None] * len(parameters)
        if any(wants_weight):
            gradients = ctx.weight.gradients(x_MK, grad_MN)
            if later is None:
                pairs = zip(gradients, parameters, strict=True)
                found = [gradient().to(parameter.dtype) for gradient, parameter in pairs]
            else:
                later.add(zip(ctx.weight.parameters, gradients, strict=True))
        bias_grad = grad_MN.sum(dim=0).to(ctx.bias_dtype) if wants_bias else None
        return x_grad, bias_grad, None, None, *found
