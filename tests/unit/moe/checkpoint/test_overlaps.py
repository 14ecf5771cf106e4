"""What two ranges of a tensor have in common is copied, and nothing else is touched."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe.checkpoint.overlaps import boxes_of, copy_common
from moe.config.ranges import TensorRange
from moe.config.role import Role
from moe.config.tensors import TensorSlice
from tests.elements import elements_of


@st.composite
def ranges(draw: st.DrawFn, shape: tuple[int, ...], dim: int) -> TensorRange:
    """Draw a range of a part of a tensor, which is cut along a dimension."""
    start = draw(st.integers(0, shape[dim] - 1))
    part = TensorSlice("w", shape, Role("gate", 0)).span(
        dim, start, draw(st.integers(start + 1, shape[dim]))
    )
    first = draw(st.integers(0, part.elements - 1))
    return TensorRange(part, first, draw(st.integers(first + 1, part.elements)))


@given(st.data())
def test_common_elements_are_copied_and_counted(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple))
    dim = data.draw(st.integers(0, len(shape) - 1))
    one, other = data.draw(ranges(shape, dim)), data.draw(ranges(shape, dim))
    source = torch.tensor(elements_of(one), dtype=torch.float32)
    target = torch.full((other.elements,), -1.0)
    copied = copy_common(source, boxes_of(one), target, boxes_of(other))
    there, wanted = elements_of(one), elements_of(other)
    assert target.tolist() == np.where(np.isin(wanted, there), wanted, -1).tolist()
    assert copied == np.isin(wanted, there).sum()
