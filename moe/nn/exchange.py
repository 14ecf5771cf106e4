"""The collectives by which the ranks of a gang share one stage.

A gang splits heads and experts, and every member holds all tokens (expert data parallelism,
Skywork-MoE appendix B). So a block needs two operations, each the gradient of the other: ``enter``
returns tensors unchanged and sums their gradients over the gang; ``leave`` sums a tensor over the
gang and returns its gradient unchanged. A loss over a split vocabulary also needs ``gather``, which
has no gradient. ``agree`` gives all members the leader's value of something that each computes.
``Alone`` is a gang of one rank.
"""

from typing import Protocol

from torch import Tensor


class Exchange(Protocol):
    """The collectives that a block needs from its gang."""

    def enter(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors unchanged; the backward pass sums their gradients over the gang."""
        ...

    def leave(self, x: Tensor) -> Tensor:
        """Return the sum of x over the gang; the backward pass returns the gradient unchanged."""
        ...

    def gather(self, x: Tensor) -> Tensor:
        """Return the x of every member, all of one shape, stacked in member order; no gradients."""
        ...

    def agree(self, x: Tensor) -> Tensor:
        """Return the leader's x on all members; no gradients."""
        ...


class Alone:
    """A gang of one rank: nothing to exchange."""

    def enter(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors."""
        return tensors

    def leave(self, x: Tensor) -> Tensor:
        """Return x."""
        return x

    def gather(self, x: Tensor) -> Tensor:
        """Return x as a stack of one."""
        return x.detach()[None]

    def agree(self, x: Tensor) -> Tensor:
        """Return x."""
        return x
