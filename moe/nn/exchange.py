"""How the ranks of a gang share one stage: the seam where distribution enters the model.

A gang splits heads and experts and every member holds all tokens (expert data parallelism,
Skywork-MoE appendix B). So a block needs two moves, each the gradient of the other: ``enter``
passes tensors on and sums their gradients over the gang; ``leave`` sums a tensor over the gang and
passes its gradient on. A loss over a split vocabulary also needs ``gather``, which has no gradient,
and what all members decide each by itself they ``agree`` on. ``Alone`` is a gang of one.
"""

from typing import Protocol

from torch import Tensor


class Exchange(Protocol):
    """What a block asks of its gang."""

    def enter(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors; in the backward pass, sum their gradients over the gang."""
        ...

    def leave(self, x: Tensor) -> Tensor:
        """Return the sum of x over the gang; in the backward pass, hand the gradient on."""
        ...

    def gather(self, x: Tensor) -> Tensor:
        """Return the x of every member, alike in shape, stacked in their order; no gradients."""
        ...

    def agree(self, x: Tensor) -> Tensor:
        """Return the leader's x, the same on all members; no gradients."""
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
        """Return x as the only one of its stack."""
        return x.detach()[None]

    def agree(self, x: Tensor) -> Tensor:
        """Return x."""
        return x
