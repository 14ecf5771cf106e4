"""Curves of any length in few points."""

from itertools import pairwise
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.reporting.bins import Curve, number

VALUES = st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=300)


@given(values=VALUES, limit=st.integers(1, 20))
def test_the_least_the_most_the_mean_and_every_step_stay(
    values: list[float | None], limit: int
) -> None:
    curve = Curve(limit)
    for step, value in enumerate(values, start=1):
        curve.add(step, value)
    there = [value for value in values if value is not None]
    assert len(curve.bins) <= 2 * limit
    assert sum(each.count for each in curve.bins) == len(there)
    assert curve.lost == len(values) - len(there)
    assert (curve.bins[0].start, curve.bins[-1].stop) == (1, len(values))
    assert all(one.stop < other.start for one, other in pairwise(curve.bins))
    if not there:
        assert curve.span is None
        assert curve.last is None
        return
    assert curve.span == (min(there), max(there))
    assert curve.last == there[-1]
    assert curve.mean == pytest.approx(sum(there) / len(there), abs=1e-6)
    for each in curve.found:
        inside = [v for v in values[int(each.start) - 1 : int(each.stop)] if v is not None]
        assert (each.least, each.most) == (min(inside), max(inside))
        assert each.mean == pytest.approx(sum(inside) / len(inside), abs=1e-6)


def test_a_short_curve_keeps_every_value() -> None:
    curve = Curve(10)
    for step in range(20):
        curve.add(step, step**2)
    assert [each.mean for each in curve.bins] == [step**2 for step in range(20)]
    assert not curve.joined


@pytest.mark.parametrize("told", [None, nan, inf, -inf, "1", True, [1], {}, 10**400, -1e200])
def test_what_is_no_finite_number_is_none(told: object) -> None:
    assert number(told) is None


@pytest.mark.parametrize("told", [0, -3, 2.5])
def test_what_is_one_is_one(told: float) -> None:
    assert number(told) == told
