"""A weight that is a plain tensor."""

from dataclasses import dataclass

from torch import Tensor

from moe.nn.product import input_product, product, weight_product
from moe.nn.weights.weight import Gradient


@dataclass(frozen=True, slots=True)
class Dense:
    """The matrix ``value`` [N, K] itself; products convert it to the dtype of the rows."""

    value: Tensor

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The matrix, unless it is frozen."""
        return (self.value,) if self.value.requires_grad else ()

    def product(self, x_MK: Tensor, bias_N: Tensor | None = None) -> Tensor:
        """Return ``x @ weight.T + bias``."""
        return product(x_MK, self.value.to(x_MK.dtype), bias_N)

    def input_gradient(self, y_grad_MN: Tensor) -> Tensor:
        """Return ``y_grad @ weight``."""
        return input_product(y_grad_MN, self.value.to(y_grad_MN.dtype))

    def gradients(self, x_MK: Tensor, y_grad_MN: Tensor) -> tuple[Gradient, ...]:
        """Return the one gradient, ``y_grad.T @ x``; none where the matrix is frozen."""
        return (lambda: weight_product(y_grad_MN, x_MK),) if self.value.requires_grad else ()
