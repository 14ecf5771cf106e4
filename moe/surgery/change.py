"""Perturbations that make an expert differ from the dense feed-forward."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from moe.surgery.blocks import moments
from moe.surgery.seeds import generator as generator_of

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
class Opposite:
    """Noise that cancels exactly between two copies: the ``second`` is what the first leaves of
    twice the weight. Elements for which that has no representation in the dtype stay as they are.

    Both copies draw from the generator of ``words``, so the one that ``begin`` gets is not read.
    """

    deviation: float
    words: tuple[int, str]
    second: bool

    def begin(self, weight: Tensor, axis: int, generator: torch.Generator) -> Apply:
        """Measure the weight, and return a function that adds or subtracts the noise."""
        spread, shared = self.deviation * moments(weight)[1], generator_of(*self.words)

        def apply(block: Tensor, _: int) -> Tensor:
            noise = torch.randn(block.shape, generator=shared)
            first = (block + spread * noise).to(weight.dtype).double()
            second = 2 * block.double() - first
            held = second.to(weight.dtype).double() == second
            return torch.where(held, second if self.second else first, block.double())

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
