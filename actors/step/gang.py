"""The exchange of a gang over ``torch.distributed``."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from actors.step.clock import Clock


class GangExchange:
    """Sums over the ranks of a gang: gradients where tensors enter, values where they leave.

    ``group`` and the rank of its ``leader`` are set at the start of every membership epoch; None is
    a gang of one. Members that are ``unlike``, in kind or in threads, take the leader's choices:
    they may round differently. Those alike compute the same bits of the same tensors.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.group: dist.ProcessGroup | None = None
        self.leader = 0
        self.unlike = False

    def join(self, group: dist.ProcessGroup | None, leader: int = 0, unlike: bool = False) -> None:
        """Take part in an epoch; with no group, let go of that of the last."""
        self.group, self.leader, self.unlike = group, leader, unlike

    def enter(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors; in the backward pass, sum their gradients over the gang."""
        if self.group is None:
            return tensors
        entered: tuple[Tensor, ...] = _Enter.apply(self._gang(), *tensors)  # type: ignore[no-untyped-call]
        return entered

    def leave(self, x: Tensor) -> Tensor:
        """Return the sum of x over the gang; in the backward pass, hand the gradient on."""
        if self.group is None:
            return x
        left: Tensor = _Leave.apply(self._gang(), x)  # type: ignore[no-untyped-call]
        return left

    def gather(self, x: Tensor) -> Tensor:
        """Return the x of every member, alike in shape, stacked in their order; no gradients."""
        x = x.detach().contiguous()
        if self.group is None:
            return x[None]
        parts = [torch.empty_like(x) for _ in range(self.group.size())]
        dist.all_gather(parts, x, group=self.group)
        return torch.stack(parts)

    def agree(self, x: Tensor) -> Tensor:
        """Return the leader's x, the same on all members; no gradients."""
        if self.group is None or not self.unlike:
            return x
        agreed = x.detach().contiguous().clone()
        dist.broadcast(agreed, self.leader, group=self.group)
        return agreed

    def _gang(self) -> "_Gang":
        assert self.group is not None
        return _Gang(self.group, self._clock)


class _Gang(NamedTuple):
    """A group of an epoch, and the clock that counts waiting for it."""

    group: dist.ProcessGroup
    clock: Clock

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum over the gang in float32: parts in bfloat16 are not rounded at every
        rank.
        """
        total = x.contiguous().clone() if x.dtype == torch.float32 else x.float().contiguous()
        with self.clock.waiting("gang"):
            dist.all_reduce(total, group=self.group)
        return total


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gang: _Gang, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.gang = gang
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *(ctx.gang.sum(grad).to(grad.dtype) for grad in grads))


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gang: _Gang, x: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        return gang.sum(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0].to(ctx.dtype)
