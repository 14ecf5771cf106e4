"""Documents that share a row: none sees another, and the positions of each begin at 0.

Shapes: B rows, S positions, R runs: the documents of all rows, and their padding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Self

import torch
from torch import Tensor

PADDING = -1
"""The number of padding, which stands at the end of a row."""


@dataclass(frozen=True, slots=True)
class Documents:
    """Where the documents of a micro-batch lie.

    ``numbers`` [B, S] is the number of the document of each position, from 0 in each row, or
    PADDING; ``positions`` [B, S] is the position within it. ``ends`` [R + 1], int32, are the ends
    of all runs of the rows one after the other, a 0 first. ``sizes`` are the lengths of the
    documents of each row, without padding; they are known on the host.
    """

    numbers: Tensor
    positions: Tensor
    ends: Tensor
    sizes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, numbers_BS: Tensor, moved: Callable[[Tensor], Tensor] = Tensor.clone) -> Self:
        """Return the documents of numbers on the host; ``moved`` brings a tensor to the device."""
        runs = [torch.unique_consecutive(row, return_counts=True) for row in numbers_BS]
        counts = [size.tolist() for _, size in runs]
        padded = [bool(names[-1] == PADDING) for names, _ in runs]
        starts = torch.tensor([0, *accumulate(chain(*counts))])
        flat = torch.arange(numbers_BS.numel())
        within = flat - starts[:-1].repeat_interleave(starts.diff())
        return cls(
            moved(numbers_BS),
            moved(within.view_as(numbers_BS)),
            moved(starts.int()),
            tuple(
                tuple(row[:-1] if short else row) for row, short in zip(counts, padded, strict=True)
            ),
        )

    @classmethod
    def of_each(
        cls, numbers_BS: Tensor, rows: int, moved: Callable[[Tensor], Tensor]
    ) -> tuple[Self, ...]:
        """Return the documents of each micro-batch of so many rows."""
        return tuple(cls.of(own, moved) for own in torch.split(numbers_BS, rows))

    @property
    def valid(self) -> Tensor | None:
        """Which positions are no padding, [B, S]; None if all are."""
        length = self.numbers.shape[1]
        whole = all(sum(row) == length for row in self.sizes)
        return None if whole else self.numbers != PADDING

    @property
    def longest(self) -> int:
        """Length of the longest run."""
        length = self.numbers.shape[1]
        return max(max(*row, length - sum(row), 1) for row in self.sizes)

    def seen(self, window: int | None) -> Tensor:
        """Return which positions [B, 1, S, S] each one sees: those of its document up to itself,
        at most ``window``. Padding sees padding.
        """
        together = self.numbers[:, :, None] == self.numbers[:, None, :]
        seen = together.tril()
        return (seen if window is None else seen.triu(1 - window))[:, None]
