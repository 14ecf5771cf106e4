"""The bank that computes one expert after the other, in one autograd function.

Each expert computes one block of rows; experts without tokens are skipped. The host must know the
sizes of the blocks, which is free on CPUs, where the products go through the fastest library
(``moe.nn.product``), and waits for the device on GPUs. Weights may be of any kind, and each is a
leaf of its own, so no gradient is ever as large as all experts.

The backward pass is written by hand: it keeps only the two inner products of each expert, computes
the gradient of a routing weight from them instead of the expert's output, and adds rows into their
tokens without a copy of all pairs::

    g = x Wg^T,  u = x Wu^T,  h = silu(g) u,  y = w h Wd^T           w the routing weight
    dh' = dy Wd,  dw = sum(dh' h),  dWd = dy^T (w h),  dh = w dh'
    du = dh silu(g),  dg = dh u silu'(g)
    dWg = dg^T x,  dWu = du^T x,  dx = dg Wg + du Wu

Shapes: T tokens, K experts per token, A pairs kept by this rank, R rows of one expert, D hidden, F
expert columns.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from moe.nn.dispatch import Order
from moe.nn.later import Later
from moe.nn.weights.weight import Gradient, Weight


def apply(
    x_TD: Tensor,
    weights_TK: Tensor,
    order: Order,
    gate_up: Callable[[int], tuple[Weight, Weight]],
    down: Callable[[int], Weight],
    later: Later | None = None,
) -> Tensor:
    """Return the weighted sum of the experts over the pairs of the order, [T, D].

    The weights of a row are asked for where tokens come to it. If ``later`` is given, it collects
    the gradients of the experts' weights.
    """
    blocks = _blocks(order)
    weights = tuple((*gate_up(row), down(row)) for row in blocks.rows)
    parameters = [each for expert in weights for weight in expert for each in weight.parameters]
    setting = _Setting(blocks, weights, later)
    y_TD: Tensor = _Bank.apply(x_TD, weights_TK, setting, *parameters)  # type: ignore[no-untyped-call]
    return y_TD


class _Blocks(NamedTuple):
    """The pairs of each expert: flat positions in [T, K], sorted by expert.

    ``rows`` are the experts that have pairs, ``sizes`` the number of their pairs.
    """

    places_A: Tensor
    tokens_A: Tensor
    rows: tuple[int, ...]
    sizes: tuple[int, ...]

    def split(self, values_A: Tensor) -> tuple[Tensor, ...]:
        """Return the values of each expert's pairs."""
        return torch.split(values_A, list(self.sizes))


def _blocks(order: Order) -> _Blocks:
    ends = order.ends.tolist()
    sizes = [end - start for start, end in pairwise([0, *ends])]
    places_A = order.places[: sum(sizes)]
    busy = [(row, size) for row, size in enumerate(sizes) if size]
    return _Blocks(
        places_A,
        places_A // order.top_k,
        tuple(row for row, _ in busy),
        tuple(size for _, size in busy),
    )


class _Setting(NamedTuple):
    """Arguments of the autograd function: rows and weights (gate, up, down) of each busy expert.

    ``later``, if given, collects the gradients of weights.
    """

    blocks: _Blocks
    weights: tuple[tuple[Weight, Weight, Weight], ...]
    later: Later | None


class _Bank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, weights_TK: Tensor, setting: _Setting, *parameters: Tensor
    ) -> Tensor:
        blocks = setting.blocks
        weights_A1 = weights_TK.flatten().index_select(0, blocks.places_A)[:, None]
        rows = zip(blocks.split(blocks.tokens_A), blocks.split(weights_A1), strict=True)
        y_TD = x_TD.new_zeros(x_TD.shape, dtype=_sum_dtype(x_TD, weights_TK))
        inner = []
        for (tokens_R, weights_R1), (gate, up, down) in zip(rows, setting.weights, strict=True):
            x_RD = x_TD.index_select(0, tokens_R)
            gate_RF, up_RF = gate.product(x_RD), up.product(x_RD)
            y_RD = down.product(F.silu(gate_RF).mul_(up_RF))
            y_TD.index_add_(0, tokens_R, (y_RD * weights_R1).to(y_TD.dtype))
            if any(ctx.needs_input_grad):
                inner += [gate_RF, up_RF]
        ctx.save_for_backward(x_TD, weights_A1, *inner, *parameters)
        ctx.setting, ctx.shape = setting, weights_TK.shape
        return y_TD.to(x_TD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        setting: _Setting = ctx.setting
        blocks = setting.blocks
        x_TD, weights_A1, *saved = ctx.saved_tensors
        inner, parameters = saved[: 2 * len(blocks.sizes)], saved[2 * len(blocks.sizes) :]
        trained = any(ctx.needs_input_grad[3:])
        x_grad_TD = x_TD.new_zeros(x_TD.shape, dtype=_sum_dtype(x_TD, weights_A1))
        weight_grads: list[Tensor] = []
        taken: list[Tensor] = []
        rows = zip(blocks.split(blocks.tokens_A), blocks.split(weights_A1), strict=True)
        for expert, (tokens_R, weights_R1) in enumerate(rows):
            own = _expert_backward(
                x_TD.index_select(0, tokens_R),
                grads[0].index_select(0, tokens_R),
                weights_R1,
                inner[2 * expert : 2 * expert + 2],
                setting.weights[expert],
            )
            x_grad_TD.index_add_(0, tokens_R, own.x_RD.to(x_grad_TD.dtype))
            weight_grads.append(own.weights_R)
            if setting.later is not None and trained:
                setting.later.add(own.parameters)
            elif trained:
                taken += [gradient().to(weight.dtype) for weight, gradient in own.parameters]
        weights_grad = torch.zeros(ctx.shape, dtype=weights_A1.dtype, device=x_TD.device)
        if weight_grads:
            weights_grad.view(-1)[blocks.places_A] = torch.cat(weight_grads).to(weights_A1.dtype)
        x_grad_TD = x_grad_TD.to(x_TD.dtype)
        return (x_grad_TD, weights_grad, None, *(taken or (None,) * len(parameters)))


def _sum_dtype(x_TD: Tensor, weights: Tensor) -> torch.dtype:
    """Return the type in which the rows of a token's experts are added: not a narrower one than
    that of the routing weights.
    """
    return torch.promote_types(x_TD.dtype, weights.dtype)


class _ExpertGradients(NamedTuple):
    """Gradients of one expert's rows and routing weights; its parameters, and functions that
    compute their gradients.

    Gradients of parameters are computed at once or later; the functions keep their inputs until
    then.
    """

    x_RD: Tensor
    weights_R: Tensor
    parameters: tuple[tuple[Tensor, Gradient], ...]


def _expert_backward(
    x_RD: Tensor,
    y_grad_RD: Tensor,
    weights_R1: Tensor,
    inner: Sequence[Tensor],
    weights: tuple[Weight, Weight, Weight],
) -> _ExpertGradients:
    gate_RF, up_RF = inner
    gate, up, down = weights
    h_grad_RF = down.input_gradient(y_grad_RD)
    silu_RF = F.silu(gate_RF)
    h_RF = silu_RF * up_RF
    weights_R = torch.sum(h_grad_RF * h_RF, dim=1, dtype=torch.float32)
    weights_R1 = weights_R1.to(h_RF.dtype)
    h_RF.mul_(weights_R1)
    h_grad_RF.mul_(weights_R1)
    up_grad_RF = silu_RF.mul_(h_grad_RF)
    gate_grad_RF = torch.ops.aten.silu_backward(h_grad_RF.mul_(up_RF), gate_RF)
    x_grad_RD = gate.input_gradient(gate_grad_RF).add_(up.input_gradient(up_grad_RF))
    gradients = (
        *gate.gradients(x_RD, gate_grad_RF),
        *up.gradients(x_RD, up_grad_RF),
        *down.gradients(h_RF, y_grad_RD),
    )
    parameters = (*gate.parameters, *up.parameters, *down.parameters)
    return _ExpertGradients(x_grad_RD, weights_R, tuple(zip(parameters, gradients, strict=True)))
