"""Ranges of a tensor's elements in memory order, as boxes (hyperrectangles) to copy.

A range ``[start, stop)`` of the elements of a row-major tensor may begin and end within a row. It
consists of a few boxes, each contiguous in memory: the rest of a row, complete rows, the beginning
of a row. Boxes of two ranges are intersected dimension by dimension.
"""

from collections.abc import Iterator
from math import prod

Box = tuple[tuple[int, int], ...]
"""Half-open spans, one for each dimension."""


def cut(shape: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    """Yield the boxes of a range in memory order; at most two for a dimension, and one more."""
    if start >= stop:
        return
    if not shape:
        yield ()
        return
    row = prod(shape[1:])
    first, last = start // row, (stop - 1) // row
    if first == last:
        for rest in cut(shape[1:], start - first * row, stop - first * row):
            yield (first, first + 1), *rest
        return
    whole = start if start == first * row else (first + 1) * row
    end = stop if stop == (last + 1) * row else last * row
    yield from cut(shape, start, whole)
    if whole < end:
        yield (whole // row, end // row), *((0, size) for size in shape[1:])
    yield from cut(shape, end, stop)


def shifted(box: Box, dim: int | None, by: int) -> Box:
    """Return the box moved along one dimension."""
    if dim is None:
        return box
    start, stop = box[dim]
    return (*box[:dim], (start + by, stop + by), *box[dim + 1 :])


def overlap(one: Box, other: Box) -> Box | None:
    """Return the intersection of two boxes; None if it is empty."""
    common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return common if all(start < stop for start, stop in common) else None


def lengths(box: Box) -> tuple[int, ...]:
    """Return the size of a box along every dimension."""
    return tuple(stop - start for start, stop in box)


def within(box: Box, outer: Box) -> tuple[slice, ...]:
    """Return the index of a box within an outer box that contains it."""
    return tuple(
        slice(start - origin, stop - origin)
        for (start, stop), (origin, _) in zip(box, outer, strict=True)
    )
