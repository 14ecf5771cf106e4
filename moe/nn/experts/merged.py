"""The bank that merges the experts of a layer: each segment passes one feed-forward.

Its weights are the experts' weights, summed by the routing of the segment (``moe.nn.segments``).
The merged weights of a segment take as much memory as one expert. They are made for some segments
at a time, since one product makes those of several while it reads the experts once; the backward
pass makes them again::

    W_k = sum_i e_ki W_i         for gate above up, and for down: one product [K, N] [N, numbers]
    dW_i = sum_k e_ki dW_k       another
    de_ki = <dW_k, W_i>          another

In bfloat16 the weights of the experts are rounded as all operands of products are; sums are
float32.

A rank of a gang has some columns of every expert, so it merges without asking others, and its
output is summed over the gang as that of a dense feed-forward is.

Shapes: B batch, S sequence, D hidden, F columns held, G segments of a sequence, N experts, K
segments at a time, R rows of one segment.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from moe.config.merging import segments_at_once
from moe.nn.experts.experts import Experts
from moe.nn.experts.stack import Stack
from moe.nn.product import input_product, product, weight_product


class MergedExperts(Experts):
    """Columns of all experts of a layer, keyed by their number."""

    def merge(self, x_BSD: Tensor, weights_BGN: Tensor, length: int) -> Tensor:
        """Return the output of the merged feed-forward of each segment, [B, S, D].

        ``length`` is that of a segment, in tokens. Gradients of weights are not deferred: those of
        the router need them at once.
        """
        gate_up, down = self.in_stacks()
        spans = tuple(segments(x_BSD.shape[:2], length))
        setting = _Setting(spans, gate_up, down)
        arguments = (x_BSD, weights_BGN.flatten(0, 1), gate_up.value, down.value)
        y_BSD: Tensor = _Merged.apply(*arguments, setting)  # type: ignore[no-untyped-call]
        return y_BSD

    @torch.inference_mode(mode=False)
    def in_stacks(self) -> tuple[Stack, Stack]:
        """Return gates above ups [N, 2F, D] and downs [N, D, F], moved together if need be.

        They are made for later passes too, which may train.
        """
        self.gather()
        found = self.stacks()
        assert found is not None
        return found


class Span(NamedTuple):
    """The tokens ``[start, stop)`` of one sequence of a batch: a segment."""

    sequence: int
    start: int
    stop: int

    def of(self, x_BSD: Tensor) -> Tensor:
        """Return a view of the rows of the segment."""
        return x_BSD[self.sequence, self.start : self.stop]


def segments(size: Sequence[int], length: int) -> Iterator[Span]:
    """Yield the segments of a batch [B, S], sequence after sequence."""
    batch, tokens = size
    for sequence in range(batch):
        for start in range(0, tokens, length):
            yield Span(sequence, start, min(start + length, tokens))


class _Setting(NamedTuple):
    """Arguments of the autograd function that are no tensors."""

    spans: tuple[Span, ...]
    gate_up: Stack
    down: Stack

    def groups(self) -> Iterator[slice]:
        """Yield the segments that are merged together."""
        numbers = self.gate_up.value[0].numel() + self.down.value[0].numel()
        step = segments_at_once(numbers)
        for start in range(0, len(self.spans), step):
            yield slice(start, min(start + step, len(self.spans)))


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BSD: Tensor,
        weights_KN: Tensor,
        gate_up_NED: Tensor,
        down_NDF: Tensor,
        setting: _Setting,
    ) -> Tensor:
        y_BSD, inner = torch.empty_like(x_BSD), []
        for group in setting.groups():
            gate_up = merged(weights_KN[group], gate_up_NED, x_BSD.dtype)
            down = merged(weights_KN[group], down_NDF, x_BSD.dtype)
            for span, *weights in zip(setting.spans[group], gate_up, down, strict=True):
                inner_RE = product(span.of(x_BSD), weights[0])
                gate_RF, up_RF = inner_RE.chunk(2, dim=1)
                span.of(y_BSD).copy_(product(F.silu(gate_RF).mul_(up_RF), weights[1]))
                inner += [inner_RE] if any(ctx.needs_input_grad) else []
        ctx.save_for_backward(x_BSD, weights_KN, gate_up_NED, down_NDF, *inner)
        ctx.setting = setting
        return y_BSD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        setting: _Setting = ctx.setting
        x_BSD, weights_KN, gate_up_NED, down_NDF, *inner = ctx.saved_tensors
        x_grad_BSD, weights_grad_KN = torch.empty_like(x_BSD), torch.zeros_like(weights_KN)
        for group in setting.groups():
            own_KN, dtype = weights_KN[group], x_BSD.dtype
            made = merged(own_KN, gate_up_NED, dtype), merged(own_KN, down_NDF, dtype)
            grown = torch.empty_like(made[0]), torch.empty_like(made[1])
            rows = zip(setting.spans[group], inner[group], *made, *grown, strict=True)
            for span, inner_RE, gate_up, down, to_gate_up, to_down in rows:
                y_grad_RD = span.of(grads[0])
                h_RF, inner_grad_RE = _activation_backward(inner_RE, input_product(y_grad_RD, down))
                span.of(x_grad_BSD).copy_(input_product(inner_grad_RE, gate_up))
                to_gate_up.copy_(weight_product(inner_grad_RE, span.of(x_BSD)))
                to_down.copy_(weight_product(y_grad_RD, h_RF))
            pairs = ((setting.gate_up, gate_up_NED, grown[0]), (setting.down, down_NDF, grown[1]))
            for number, (stack, value, grad) in enumerate(pairs):
                weights_grad_KN[group] += _weights_gradient(grad, value)
                if ctx.needs_input_grad[2 + number]:
                    _accumulate(stack, own_KN, grad)
        return x_grad_BSD, weights_grad_KN, None, None, None


def merged(weights_KN: Tensor, stack: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the sums of the experts' matrices by each row of weights, [K, height, width]."""
    flat = stack.view(len(stack), -1).to(dtype)
    return torch.mm(weights_KN.to(dtype), flat).view(-1, *stack.shape[1:])


def _activation_backward(inner_RE: Tensor, h_grad_RF: Tensor) -> tuple[Tensor, Tensor]:
    """Return the activation, and the gradients of gate beside those of up."""
    gate_RF, up_RF = inner_RE.chunk(2, dim=1)
    silu_RF = F.silu(gate_RF)
    inner_grad_RE = torch.empty_like(inner_RE)
    gate_grad_RF, up_grad_RF = inner_grad_RE.chunk(2, dim=1)
    torch.mul(h_grad_RF, silu_RF, out=up_grad_RF)
    torch.ops.aten.silu_backward.grad_input(h_grad_RF * up_RF, gate_RF, grad_input=gate_grad_RF)
    return silu_RF.mul_(up_RF), inner_grad_RE


def _weights_gradient(grad: Tensor, stack: Tensor) -> Tensor:
    """Return the inner products of the gradients with the experts' matrices, [K, N]."""
    flat = stack.view(len(stack), -1).to(grad.dtype)
    return torch.mm(grad.view(len(grad), -1), flat.t()).float()


def _accumulate(stack: Stack, weights_KN: Tensor, grad: Tensor) -> None:
    """Add to each expert's gradient its part of those of the merged weights."""
    found = stack.grad
    flat = found.view(len(found), -1)
    flat.addmm_(weights_KN.t().to(flat.dtype), grad.view(len(grad), -1).to(flat.dtype))
