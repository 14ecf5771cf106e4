"""What a matrix product takes: a weight of some kind, of which layers know no more than this.

Layers, experts and autograd functions multiply through these four members. A kind decides how its
matrix is stored (a plain tensor, 8-bit numbers with scales, two thin factors) and which tensors
training moves.

Shapes: M rows, N outputs, K inputs.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

Gradient = Callable[[], Tensor]


class Weight(Protocol):
    """A matrix [N, K] that rows can be multiplied with. None of its products is recorded."""

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The tensors that training moves; empty for a weight that is frozen."""

    def product(self, x_MK: Tensor, bias_N: Tensor | None = None) -> Tensor:
        """Return ``x @ weight.T + bias`` [M, N] in the type of x."""

    def input_gradient(self, y_grad_MN: Tensor) -> Tensor:
        """Return ``y_grad @ weight`` [M, K], the gradient of the rows that were multiplied."""

    def gradients(self, x_MK: Tensor, y_grad_MN: Tensor) -> tuple[Gradient, ...]:
        """Return for each of ``parameters`` the function that computes its gradient."""
