"""Weights as blocks of a few rows: source rows are memory-mapped, new blocks are small."""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**22
"""Elements of a block; 16 MiB in float32. Random numbers are drawn per block, so a change of this
size changes the results of a seed.
"""


ACTIVITY_ELEMENTS = 2**20
"""Elements of a block when many copies are computed at a time."""


def spans(weight: Tensor, elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, int]]:
    """Yield ``(start, stop)`` of consecutive blocks of rows that together cover the weight."""
    rows = weight.shape[0]
    step = max(1, elements * rows // max(weight.numel(), 1))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def moments(weight: Tensor, columns: Tensor | None = None, axis: int = 0) -> tuple[float, float]:
    """Return mean and standard deviation, of all or of some columns along ``axis``, in float64."""
    count, total, squares = 0, 0.0, 0.0
    for block in chosen(weight, columns, axis):
        values = block.double()
        count += values.numel()
        total += values.sum().item()
        squares += values.square().sum().item()
    mean = total / max(count, 1)
    return mean, max(squares / max(count, 1) - mean * mean, 0.0) ** 0.5


def chosen(weight: Tensor, columns: Tensor | None, axis: int) -> Iterator[Tensor]:
    """Yield the rows of a weight block by block, of all or of some columns along ``axis``."""
    if columns is None:
        yield from (weight[start:stop] for start, stop in spans(weight))
    elif axis == 1:
        yield from (weight[start:stop].index_select(1, columns) for start, stop in spans(weight))
    else:
        cut = torch.empty(len(columns), *weight.shape[1:], device="meta")
        yield from (weight.index_select(0, columns[start:stop]) for start, stop in spans(cut))
