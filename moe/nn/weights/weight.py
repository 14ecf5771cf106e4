"""The operand of a matrix product: a weight of some kind, behind the only interface that layers
use.

Layers, experts and autograd functions multiply through these four members. A kind decides how its
matrix is stored (a plain tensor, 8-bit numbers with scales, two thin factors) and which tensors are
trained.

Shapes: M rows, N outputs, K inputs.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

Gradient = Callable[[], Tensor]


class Weight(Protocol):
    """A matrix [N, K] by which rows can be multiplied. Autograd records none of its products."""

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The trained tensors; empty for a frozen weight."""

    def product(self, x_MK: Tensor, bias_N: Tensor | None = None) -> Tensor:
        """Return ``x @ weight.T + bias`` [M, N] in the type of x."""

    def input_gradient(self, y_grad_MN: Tensor) -> Tensor:
        """Return ``y_grad @ weight`` [M, K], the gradient of the rows that were multiplied."""

    def gradients(self, x_MK: Tensor, y_grad_MN: Tensor) -> tuple[Gradient, ...]:
        """Return for each of ``parameters`` the function that computes its gradient."""
