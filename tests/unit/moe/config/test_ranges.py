"""Ranges and bands of tensors against the numbers of real arrays."""

from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moe.config.ranges import TensorRange, band_of, position, whole_range
from moe.config.role import Role
from moe.config.tensors import TensorSlice
from tests.elements import elements_of

ROLE = Role("embedding")


@st.composite
def parts(draw: st.DrawFn, shape: tuple[int, ...], dim: int) -> TensorSlice:
    """Draw a part of a tensor, whole or cut along one dimension."""
    if draw(st.booleans()):
        return TensorSlice("t", shape, ROLE)
    start = draw(st.integers(0, shape[dim] - 1))
    return TensorSlice("t", shape, ROLE, dim, start, draw(st.integers(start + 1, shape[dim])))


@st.composite
def cases(draw: st.DrawFn) -> tuple[TensorRange, TensorSlice]:
    """Draw a range of a part, and another part of the same tensor."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    dim = draw(st.integers(0, len(shape) - 1))
    part, other = draw(parts(shape, dim)), draw(parts(shape, dim))
    ends = sorted(draw(st.tuples(*[st.integers(0, part.elements)] * 2)))
    return TensorRange(part, *ends), other


@given(cases())
def test_a_range_of_a_part_is_a_range_of_every_band(case: tuple[TensorRange, TensorSlice]) -> None:
    own, other = case
    shared = np.intersect1d(elements_of(whole_range(own.part)), elements_of(whole_range(other)))
    band = band_of(own.part, other)
    if band is None:
        assert shared.size == 0
        return
    assert elements_of(whole_range(band)).tolist() == shared.tolist()
    start, stop = own.within(band)
    found = elements_of(TensorRange(band, start, stop))
    assert found.tolist() == np.intersect1d(elements_of(own), shared).tolist()


@given(cases())
def test_a_position_counts_the_elements_of_the_band_before(
    case: tuple[TensorRange, TensorSlice],
) -> None:
    own, other = case
    band = band_of(own.part, other)
    if band is not None:
        before = elements_of(TensorRange(own.part, 0, own.start))
        held = np.isin(before, elements_of(whole_range(band)))
        assert position(own.part, band, own.start) == held.sum()


def test_the_example_of_the_page() -> None:
    part, band = TensorSlice("t", (2, 4), ROLE, 1, 0, 3), TensorSlice("t", (2, 4), ROLE, 1, 1, 3)
    assert TensorRange(part, 1, 5).within(band) == (0, 3)
    assert whole_range(part).elements == prod(part.held_shape) == 6
    assert band_of(part, TensorSlice("t", (2, 4), ROLE, 1, 3, 4)) is None
