"""Whether a difference between arms is there, from a few seeds."""

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.study.compare import ONE_IN_TWENTY, Difference, difference, together


def tail(t: float, freedom: int) -> float:
    """Integrate the density of Student's t above a point, by Simpson's rule over the angle."""
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(math.pi * freedom) * math.gamma(freedom / 2))
    start, stop, parts = math.atan(t / math.sqrt(freedom)), math.pi / 2, 2000
    width = (stop - start) / parts

    def density(angle: float) -> float:
        return scale * math.sqrt(freedom) * math.cos(angle) ** (freedom - 1)

    inner = sum((4 if n % 2 else 2) * density(start + n * width) for n in range(1, parts))
    return (density(start) + inner + density(stop)) * width / 3


@pytest.mark.parametrize("freedom", range(1, len(ONE_IN_TWENTY)))
def test_the_points_leave_one_case_in_twenty(freedom: int) -> None:
    assert tail(ONE_IN_TWENTY[freedom], freedom) == pytest.approx(0.05, abs=1e-4)
    assert ONE_IN_TWENTY[freedom] > NormalDist().inv_cdf(0.95)


def test_a_difference_by_hand() -> None:
    found = difference([1.0, 2.0, 3.0], [1.5, 2.6, 3.7])
    assert found.mean == pytest.approx(-0.6)
    assert found.error == pytest.approx(0.1 / math.sqrt(3))
    assert found.seen
    assert (found.below(), found.above()) == ("holds", "does not hold")
    assert found.text == "-0.6000 ± 0.0577"


def test_one_seed_shows_nothing() -> None:
    found = difference([1.0], [9.0])
    assert (found.below(), found.within(0.1)) == ("not seen at this size",) * 2
    assert found.text == "-8.0000, one seed"


@pytest.mark.parametrize(
    ("mean", "error", "verdict"),
    [(0.001, 0.001, "holds"), (0.5, 0.01, "does not hold"), (0.004, 0.02, "not seen at this size")],
)
def test_within(mean: float, error: float, verdict: str) -> None:
    assert Difference(mean, error, 3).within(0.01) == verdict


def test_a_claim_of_parts() -> None:
    assert together(["holds", "holds"]) == "holds"
    assert together(["holds", "not seen at this size"]) == "not seen at this size"
    assert together(["not seen at this size", "does not hold", "holds"]) == "does not hold"


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=6), st.floats(0.5, 5))
def test_a_shift_of_all_seeds_is_seen(losses: list[float], shift: float) -> None:
    """The seeds differ from each other by more than the arms: pairs tell."""
    found = difference([loss - shift for loss in losses], losses)
    assert found.below() == "holds"
    assert found.mean == pytest.approx(-shift)
