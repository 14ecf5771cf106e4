"""A frozen weight with what low-rank factors add to it; the factors alone are trained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from moe.nn.weights.weight import Gradient, Weight


@dataclass(frozen=True, slots=True)
class LowRank:
    """``base`` [N, K] plus ``scale`` times rows ``start`` to ``stop``, N of them, of B, times A.

    ``down_RK`` is A, ``up_PR`` is B, whose other rows belong to other weights.
    """

    base: Weight
    down_RK: Tensor
    up_PR: Tensor
    scale: float
    start: int
    stop: int

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """A and all of B."""
        return self.down_RK, self.up_PR

    def product(self, x_MK: Tensor, bias_N: Tensor | None = None) -> Tensor:
        """Return ``x @ weight.T + bias``."""
        own = (x_MK @ self._down(x_MK).T) @ self._up(x_MK).T
        return self.base.product(x_MK, bias_N).add_(own, alpha=self.scale)

    def input_gradient(self, y_grad_MN: Tensor) -> Tensor:
        """Return ``y_grad @ weight``."""
        own = (y_grad_MN @ self._up(y_grad_MN)) @ self._down(y_grad_MN)
        return self.base.input_gradient(y_grad_MN).add_(own, alpha=self.scale)

    def gradients(self, x_MK: Tensor, y_grad_MN: Tensor) -> tuple[Gradient, ...]:
        """Return those of A, and of B, which are zero outside the rows of this weight."""

        def of_down() -> Tensor:
            inner_MR = y_grad_MN @ self._up(y_grad_MN)
            return (inner_MR.T @ x_MK).mul_(self.scale)

        def of_up() -> Tensor:
            inner_MR = x_MK @ self._down(x_MK).T
            found = torch.zeros_like(self.up_PR, dtype=x_MK.dtype)
            torch.mm(y_grad_MN.T, inner_MR, out=found[self.start : self.stop])
            return found.mul_(self.scale)

        return of_down, of_up

    def _down(self, like: Tensor) -> Tensor:
        return self.down_RK.to(like.dtype)

    def _up(self, like: Tensor) -> Tensor:
        return self.up_PR[self.start : self.stop].to(like.dtype)
