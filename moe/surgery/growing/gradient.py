"""The squared gradient of the loss in the weights of every expert, with the weights in the files.

The utility by which Dwivedi et al. 2026 choose the experts to copy: an expert whose weights still
want to move has use for more capacity. The forward pass keeps the hidden states before each layer;
the backward pass makes one layer at a time again. Memory holds these states, the head, the
attention of one layer, and one expert with its gradient.

Shapes: B batch, S sequence, D hidden, R rows of one expert.
"""

from collections import defaultdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from moe.checkpoint.reader import Checkpoint
from moe.nn.decoder import Pass
from moe.nn.loss import head_loss
from moe.surgery.streamed import (
    StreamedExperts,
    advance,
    embedded,
    final_normed,
    head_weight,
    streamed_layer,
)


class _GradedExperts(StreamedExperts):
    """Experts that note the squared norm of their gradient in the backward pass."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.squares: dict[int, float] = defaultdict(float)

    def matrices(self, number: int) -> list[Tensor]:
        """Return gate, up and down of an expert in float32."""
        return [self._linear(number, part).stored.float() for part in ("gate", "up", "down")]

    def output(self, number: int, x_RD: Tensor) -> Tensor:
        y_RD: Tensor = _Expert.apply(x_RD, self, number)  # type: ignore[no-untyped-call]
        return y_RD


class _Expert(torch.autograd.Function):
    """One expert whose weights are read again for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, experts: _GradedExperts, number: int) -> Tensor:
        ctx.save_for_backward(x_RD)
        ctx.experts, ctx.number = experts, number
        return _swiglu(x_RD, experts.matrices(number))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x_RD,) = ctx.saved_tensors
        inputs = [x_RD.detach(), *ctx.experts.matrices(ctx.number)]
        with torch.enable_grad():
            leaves = [each.requires_grad_() for each in inputs]
            y_RD = _swiglu(leaves[0], leaves[1:])
            x_grad, *found = torch.autograd.grad(y_RD, leaves, grads[0])
        squares = sum(float(grad.double().square().sum()) for grad in found)
        ctx.experts.squares[ctx.number] += squares
        return x_grad, None, None


def squared_gradients(
    checkpoint: Checkpoint, tokens_BS: Tensor, labels_BS: Tensor
) -> dict[int, list[float]]:
    """Return for each layer with experts the squared gradient norm of each expert.

    The loss is the mean cross entropy of the labels; those of -100 do not count.
    """
    config = checkpoint.config
    with torch.no_grad():
        states = [embedded(checkpoint, tokens_BS)]
        for layer in range(config.layers):
            states.append(advance(checkpoint, layer, tokens_BS, states[-1]))
    x_BSD = states.pop().requires_grad_()
    scale = 1.0 / max(int((labels_BS >= 0).sum()), 1)
    head = head_weight(checkpoint).float()
    loss = head_loss(final_normed(checkpoint, x_BSD), head, labels_BS, scale)
    torch.autograd.backward(loss)
    gradient, found = x_BSD.grad, {}
    for layer in reversed(range(config.layers)):
        x_BSD = states.pop().requires_grad_()
        decoder = streamed_layer(checkpoint, layer, _GradedExperts)
        decoder(x_BSD, Pass(tokens=tokens_BS, measured=False)).values.backward(gradient)
        gradient = x_BSD.grad
        if config.has_experts(layer):
            experts = decoder.mixture(layer).experts
            assert isinstance(experts, _GradedExperts)
            found[layer] = [experts.squares[number] for number in experts.numbers]
    return dict(sorted(found.items()))


def _swiglu(x_RD: Tensor, matrices: list[Tensor]) -> Tensor:
    gate, up, down = matrices
    return F.linear(F.silu(F.linear(x_RD, gate)) * F.linear(x_RD, up), down)
