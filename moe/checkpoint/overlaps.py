"""Copies what two ranges of a tensor have in common, whatever parts of it they are ranges of.

Both ranges are one-dimensional in memory. Their elements meet in boxes of the whole tensor
(``moe.checkpoint.boxes``), and each pair of boxes is one strided copy.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from moe.checkpoint.boxes import Box, cut, lengths, overlap, shifted, within
from moe.config.ranges import TensorRange
from moe.config.tensors import TensorSlice

Placed = tuple[Box, int]
"""A box in coordinates of the whole tensor, and where its first element lies in a flat tensor."""


def boxes_of(range_: TensorRange) -> list[Placed]:
    """Return the boxes of a range."""
    part = range_.part
    return list(placed(part.held_shape, (part.dim, part.start), range_.start, range_.stop))


def placed(
    shape: tuple[int, ...], offset: tuple[int | None, int], start: int, stop: int
) -> Iterator[Placed]:
    """Yield the boxes of a range of a part.

    ``shape`` is the shape of the part; ``offset`` is the dimension of its cut and its start there.
    """
    at = 0
    for box in cut(shape, start, stop):
        yield shifted(box, *offset), at
        at += torch.Size(lengths(box)).numel()


def copy_common(
    source: Tensor, sources: Sequence[Placed], target: Tensor, targets: Sequence[Placed]
) -> int:
    """Copy the elements that lie in boxes of both, and return their number.

    The rest of the target stays as it is.
    """
    copied = 0
    for to, to_begin in targets:
        for box, begin in sources:
            common = overlap(to, box)
            if common is not None:
                into = _view(target, to, to_begin)[within(common, to)]
                into.copy_(_view(source, box, begin)[within(common, box)])
                copied += into.numel()
    return copied


def _view(flat: Tensor, box: Box, begin: int) -> Tensor:
    size = torch.Size(lengths(box))
    return flat[begin : begin + size.numel()].view(size)


def narrowed(whole: Tensor, part: TensorSlice) -> Tensor:
    """Return the part of a whole tensor; a view."""
    if part.dim is None:
        return whole
    return whole.narrow(part.dim, part.start, part.stop - part.start)
