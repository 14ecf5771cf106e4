"""Perturbations that make an expert differ from the dense feed-forward."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from moe.surgery.blocks import moments

Apply = Callable[[Tensor, int], Tensor]
"""Takes a block of rows in float32 and the number of its first row, and returns it changed."""


class Change(Protocol):
    """A perturbation of a weight whose feed-forward columns lie along ``axis``."""

    def begin(self, weight: Tensor, axis: int, generator: torch.Generator) -> Apply:
        """Return a function to apply to the blocks of the weight, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class Noise:
    """Gaussian noise; ``deviation`` is relative to the standard deviation of the weight."""

    deviation: float

    def begin(self, weight: Tensor, axis: int, generator: torch.Generator) -> Apply:
        """Measure the weight, and return a function that adds noise."""
        spread = self.deviation * moments(weight)[1]

        def apply(block: Tensor, _: int) -> Tensor:
            return block + spread * torch.randn(block.shape, generator=generator)

        return apply


@dataclass(frozen=True, slots=True)
class Redraw:
    """Replaces columns with draws from a normal with mean and deviation of these columns.

    Drop-Upcycling (Nakamura et al. 2025, section 3.2); ``columns`` are numbers.
    """

    columns: Tensor

    def begin(self, weight: Tensor, axis: int, generator: torch.Generator) -> Apply:
        """Measure the columns, and return a function that replaces them."""
        mean, spread = moments(weight, self.columns, axis)
        mask = torch.zeros(weight.shape[axis], dtype=torch.bool).index_fill(0, self.columns, True)

        def apply(block: Tensor, start: int) -> Tensor:
            new = mean + spread * torch.randn(block.shape, generator=generator)
            rows = mask[start : start + len(block), None] if axis == 0 else mask
            return torch.where(rows, new, block)

        return apply
