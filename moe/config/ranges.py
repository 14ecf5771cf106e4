"""Ranges of a tensor's elements in memory order, and overlaps of ranges of two parts.

A tensor is cut twice: a gang cuts it along one dimension into *parts* (``TensorSlice``), and the
replicas cut each part, row after row as it lies in memory, into *ranges*. All plans cut a tensor
along the same dimension, so two parts overlap in a *band*, which is also a part. A range of either
part covers one range of the band, because the elements of a band keep their order.

    tensor [2, 4]     part [:, 0:3] numbered  0 1 2     band [:, 1:3] numbered  . 0 1
                                              3 4 5                             . 2 3

    elements 1 to 5 of the part cover elements 0 to 3 of the band
"""

from dataclasses import dataclass, replace
from math import prod

from moe.config.tensors import TensorSlice


@dataclass(frozen=True, slots=True)
class TensorRange:
    """Elements ``[start, stop)`` of a part of a tensor, counted in memory order."""

    part: TensorSlice
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return self.part.name

    @property
    def elements(self) -> int:
        """Number of elements in the range."""
        return self.stop - self.start

    def within(self, band: TensorSlice) -> tuple[int, int]:
        """Return the elements of a band of the part that the range covers."""
        return position(self.part, band, self.start), position(self.part, band, self.stop)


def whole_range(part: TensorSlice) -> TensorRange:
    """Return the range of all elements of a part."""
    return TensorRange(part, 0, part.elements)


def band_of(one: TensorSlice, other: TensorSlice) -> TensorSlice | None:
    """Return the overlap of two parts of a tensor; None if they do not overlap."""
    if one.dim is None:
        return other
    if other.dim is None:
        return one
    start, stop = max(one.start, other.start), min(one.stop, other.stop)
    return replace(one, start=start, stop=stop) if start < stop else None


def position(part: TensorSlice, band: TensorSlice, element: int) -> int:
    """Return how many elements of a band lie before an element of the part that holds it."""
    if band.dim is None:
        return element
    row = prod(band.shape[band.dim + 1 :])
    rows, rest = divmod(element, part.held_shape[band.dim] * row)
    first = 0 if part.dim is None else part.start * row
    low, high = band.start * row, band.stop * row
    return rows * (high - low) + min(max(first + rest, low), high) - low
