"""The bank that computes all experts by grouped products, for which the host need not wait.

A grouped product multiplies each block of rows by the matrix of its expert; where the blocks end is
read on the device. That is one kernel on Hopper and Blackwell; on other GPUs torch goes from expert
to expert, and the host waits for the ends in each product (``in_one_kernel``). Shapes are fixed:
all T * K pairs take part, or as many as a capacity lets through. Those that no expert of this rank
computes lie behind the last block, where products leave their rows uninitialised; every sum over
pairs leaves them out.

The mathematics are those of ``moe.nn.experts.loop``; gate and up are one product. The outputs of a
token's K experts are gathered and summed in their order, not added into the token, which on GPUs
would happen in any order; only where a capacity leaves out pairs are they added. The gradients of
the weights are added to the stacks by ``moe.nn.later``, at once or deferred.

Shapes: T tokens, K experts per token, A pairs, R rows (experts), D hidden, F expert
columns, N = 2 * F.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from moe.nn.dispatch import Order
from moe.nn.experts.stack import Stack
from moe.nn.later import Later

CAPABILITY = (8, 0)
"""The least compute capability for which torch documents grouped products."""

_ONE_KERNEL = (9, 10)
"""Major compute capabilities for which torch 2.10 to 2.13 have them as one kernel (its source,
``aten/src/ATen/native/cuda/GroupedBlas.cpp``)."""

ALIGNED_BYTES = 16
"""Rows and matrices of grouped products begin at multiples of this on GPUs."""


class _Setting(NamedTuple):
    """Arguments of the autograd function that are no tensors."""

    order: Order
    gate_up: Stack
    down: Stack
    later: Later | None


def suits(x_TD: Tensor) -> bool:
    """Return whether torch has grouped products of these rows: bfloat16 on CUDA.

    Where they are not one kernel, they still launch a sixth of what the loop does.
    """
    if not x_TD.is_cuda or x_TD.dtype != torch.bfloat16:
        return False
    return torch.cuda.get_device_capability(x_TD.device) >= CAPABILITY


def in_one_kernel(device: torch.device) -> bool:
    """Return whether a grouped product on a GPU is one kernel, for which the host does not wait."""
    if torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device)[0] in _ONE_KERNEL


def aligned(stack: Stack) -> bool:
    """Return whether in bfloat16 every matrix, and every row of it, begins at a multiple of 16
    bytes.
    """
    numbers, value = ALIGNED_BYTES // torch.bfloat16.itemsize, stack.value
    places = value.storage_offset(), *value.stride()[:-1], *value.shape[1:]
    return all(place % numbers == 0 for place in places)


def apply(
    x_TD: Tensor,
    weights_TK: Tensor,
    order: Order,
    gate_up: Stack,
    down: Stack,
    later: Later | None = None,
) -> Tensor:
    """Return the weighted sum of the experts over the pairs of the order, [T, D].

    Products compute in the type of x. If ``later`` is given, it collects the gradients of the
    experts' weights.
    """
    arguments = (x_TD, weights_TK, gate_up.value, down.value)
    setting = _Setting(order, gate_up, down, later)
    y_TD: Tensor = _Grouped.apply(*arguments, setting)  # type: ignore[no-untyped-call]
    return y_TD


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weights_TK: Tensor,
        gate_up_RND: Tensor,
        down_RDF: Tensor,
        setting: _Setting,
    ) -> Tensor:
        order, dtype = setting.order, x_TD.dtype
        x_AD = x_TD.index_select(0, order.tokens)
        inner_AN = F.grouped_mm(x_AD, gate_up_RND.to(dtype).mT, offs=order.ends)
        gate_AF, up_AF = inner_AN.chunk(2, dim=1)
        h_AF = F.silu(gate_AF).mul_(up_AF)
        y_AD = F.grouped_mm(h_AF, down_RDF.to(dtype).mT, offs=order.ends)
        y_TD = _onto_tokens(y_AD, order, weights_TK)
        ctx.save_for_backward(x_TD, weights_TK, inner_AN, gate_up_RND, down_RDF)
        ctx.setting = setting
        return y_TD.to(x_TD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        setting: _Setting = ctx.setting
        x_TD, weights_TK, inner_AN, gate_up_RND, down_RDF = ctx.saved_tensors
        order, dtype = setting.order, x_TD.dtype
        weights_A1 = weights_TK.flatten().index_select(0, order.places).to(dtype)[:, None]
        y_grad_AD = grads[0].index_select(0, order.tokens)
        h_grad_AF = F.grouped_mm(y_grad_AD, down_RDF.to(dtype), offs=order.ends)
        own = _activation_backward(inner_AN, h_grad_AF, weights_A1)
        x_grad_AD = F.grouped_mm(own.inner_AN, gate_up_RND.to(dtype), offs=order.ends)
        x_grad_TD = _onto_tokens(x_grad_AD, order).to(x_TD.dtype)
        weights_grad_TK = torch.zeros_like(weights_TK)
        weights_grad_A = torch.where(order.alive, own.weights_A1[:, 0], 0.0).to(weights_TK.dtype)
        weights_grad_TK.view(-1).scatter_(0, order.places, weights_grad_A)
        if any(ctx.needs_input_grad[2:4]):
            later = setting.later or Later()
            tokens_A, inner, h_AF = order.tokens, own.inner_AN, own.h_AF
            later.add(
                (
                    (
                        setting.gate_up,
                        lambda: _product(inner, x_TD.index_select(0, tokens_A), order),
                    ),
                    (setting.down, lambda: _product(y_grad_AD, h_AF, order)),
                )
            )
            if setting.later is None:
                later.run()
        return x_grad_TD, weights_grad_TK, None, None, None


class _InnerGradients(NamedTuple):
    """Gradients of the inner products and of the routing weights, and the weighted activation."""

    inner_AN: Tensor
    weights_A1: Tensor
    h_AF: Tensor


def _activation_backward(
    inner_AN: Tensor, h_grad_AF: Tensor, weights_A1: Tensor
) -> _InnerGradients:
    """Go back through the activation; ``h_grad_AF`` is overwritten."""
    gate_AF, up_AF = inner_AN.chunk(2, dim=1)
    silu_AF = F.silu(gate_AF)
    h_AF = silu_AF * up_AF
    weights_grad_A1 = (h_grad_AF * h_AF).sum(dim=1, keepdim=True, dtype=torch.float32)
    h_AF.mul_(weights_A1)
    h_grad_AF.mul_(weights_A1)
    inner_grad_AN = torch.empty_like(inner_AN)
    gate_grad_AF, up_grad_AF = inner_grad_AN.chunk(2, dim=1)
    torch.mul(h_grad_AF, silu_AF, out=up_grad_AF)
    torch.ops.aten.silu_backward.grad_input(h_grad_AF.mul_(up_AF), gate_AF, grad_input=gate_grad_AF)
    return _InnerGradients(inner_grad_AN, weights_grad_A1, h_AF)


def _onto_tokens(values_AM: Tensor, order: Order, weights_TK: Tensor | None = None) -> Tensor:
    """Return the weighted sum of the rows of each token, [T, M] in float32, without those that were
    not computed.

    If some pairs are known to be dropped, the others of a token are few of its K, and are added
    into it.
    """
    values_AM = torch.where(order.alive[:, None], values_AM, 0.0)
    if order.whole:
        values_TKM = values_AM.index_select(0, order.back).view(
            order.tokens_count, order.top_k, values_AM.shape[1]
        )
        if weights_TK is None:
            return values_TKM.sum(dim=1, dtype=torch.float32)
        return (values_TKM * weights_TK[:, :, None]).sum(dim=1)
    if weights_TK is not None:
        values_AM = values_AM * weights_TK.flatten().index_select(0, order.places)[:, None]
    sum_TM = values_AM.new_zeros(order.tokens_count, values_AM.shape[1], dtype=torch.float32)
    return sum_TM.index_add_(0, order.tokens, values_AM.float())


def _product(left_AN: Tensor, right_AM: Tensor, order: Order) -> Tensor:
    """Return ``left.T @ right`` over the pairs of each expert, [R, N, M]; zeros without pairs."""
    return F.grouped_mm(left_AN.t(), right_AM, offs=order.ends)
