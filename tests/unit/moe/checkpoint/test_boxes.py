"""Boxes of a range are its elements, each once and in order."""

from itertools import product
from math import prod

from hypothesis import given
from hypothesis import strategies as st

from moe.checkpoint.boxes import Box, cut, lengths, overlap, shifted, within

SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def inside(box: Box) -> list[tuple[int, ...]]:
    return list(product(*(range(*span) for span in box)))


@given(data=st.data(), shape=SHAPES)
def test_boxes_are_the_range(data: st.DataObject, shape: tuple[int, ...]) -> None:
    total = prod(shape)
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    boxes = list(cut(shape, start, stop))
    every = list(product(*map(range, shape)))
    assert [index for box in boxes for index in inside(box)] == every[start:stop]
    assert len(boxes) <= max(2 * len(shape) - 1, 1)


def test_a_range_of_rows_is_one_box() -> None:
    assert list(cut((6, 4), 4, 20)) == [((1, 5), (0, 4))]
    assert list(cut((6, 4), 5, 18)) == [((1, 2), (1, 4)), ((2, 4), (0, 4)), ((4, 5), (0, 2))]


@given(data=st.data(), dimensions=st.integers(1, 3))
def test_overlaps_are_what_both_hold(data: st.DataObject, dimensions: int) -> None:
    spans = st.tuples(st.integers(0, 4), st.integers(1, 4)).map(lambda s: (s[0], s[0] + s[1]))
    boxes = st.lists(spans, min_size=dimensions, max_size=dimensions).map(tuple)
    one, other = data.draw(boxes), data.draw(boxes)
    common = overlap(one, other)
    expected = sorted(set(inside(one)) & set(inside(other)))
    assert (inside(common) if common else []) == expected
    if common:
        places = within(common, one)
        assert lengths(common) == tuple(place.stop - place.start for place in places)
        origin = tuple(start for start, _ in one)
        moved = [tuple(map(sum, zip(i, origin, strict=True))) for i in _indexes(places)]
        assert moved == expected


def test_a_box_moves_along_one_dimension() -> None:
    assert shifted(((0, 2), (1, 3)), 1, 10) == ((0, 2), (11, 13))
    assert shifted(((0, 2),), None, 10) == ((0, 2),)


def _indexes(places: tuple[slice, ...]) -> list[tuple[int, ...]]:
    return list(product(*(range(place.start, place.stop) for place in places)))
