"""A block that keeps only its input and is computed again in the backward pass.

Checkpointing (Chen et al. 2016, section 4.1) with one block as the segment. The backward pass first
computes the complete block again, including its sums over the gang, and then goes back through it.
So all ranks of a gang call the same collectives in the same order, for any routing. If
recomputation covered only the tensors that are missing, the collectives would depend on the data.

Nothing in a block is random, so both passes compute the same bits.

Shapes: B batch, S sequence, D hidden.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from moe.nn.layer_pass import BlockOutput, LayerPass
from moe.nn.rotary import Rotation
from moe.nn.statistics import RoutingStatistics


def recomputed(block: nn.Module, x_BSD: Tensor, rotary: Rotation, how: LayerPass) -> BlockOutput:
    """Return the block's output; statistics come from the first pass, losses from the second."""
    if how.cache is not None:
        raise RuntimeError("a layer with a cache cannot run twice; recompute in training alone")
    if not x_BSD.requires_grad:
        x_BSD = x_BSD.detach().requires_grad_()
    output = _Recomputed.apply(x_BSD, block, rotary, how)  # type: ignore[no-untyped-call]
    return BlockOutput(*output)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BSD: Tensor, block: nn.Module, rotary: Rotation, how: LayerPass
    ) -> tuple[Tensor, RoutingStatistics | None]:
        ctx.save_for_backward(x_BSD)
        ctx.again = block, rotary, how
        output = block(x_BSD, rotary, how)
        return output.hidden, output.statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, None, None, None]:
        x_BSD = ctx.saved_tensors[0].detach().requires_grad_()
        block, rotary, how = ctx.again
        with torch.enable_grad():
            hidden_BSD = block(x_BSD, rotary, how).hidden
        torch.autograd.backward(hidden_BSD, grads[0])
        return x_BSD.grad, None, None, None
