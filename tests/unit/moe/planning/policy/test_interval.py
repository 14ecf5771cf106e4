"""How often copies are taken: against the cost that the formula makes least."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import PlanError
from moe.planning.policy.interval import ASSUMED_SECONDS, expected_seconds, save_every

SECONDS = st.floats(0.01, 1e4)


@given(cost=SECONDS, step=SECONDS, mtbf=st.floats(1.0, 1e6))
def test_no_other_number_of_steps_costs_less(cost: float, step: float, mtbf: float) -> None:
    """Within one step of the best, as the interval is rounded up to whole steps."""

    def lost(steps: int) -> float:
        return cost / (steps * step) + steps * step / (2 * mtbf)

    every = save_every(cost, 0.0, step, mtbf)
    assert lost(every) <= lost(every + 1) * (1 + 1e-9)
    assert every == 1 or lost(every - 1) <= lost(max(1, every - 2)) * (1 + 1e-9)


def test_a_copy_travels_before_the_next_is_taken_and_every_step_has_one_at_most() -> None:
    assert save_every(0.0, 0.0, 1.0, 600.0) == 1
    assert save_every(0.0, 7.0, 2.0, 600.0) == 4
    assert save_every(2.0, 7.0, 1.0, 3600.0) == 120


def test_the_time_between_failures_is_assumed_until_failures_say_it() -> None:
    assert expected_seconds(0.0, 0) == ASSUMED_SECONDS
    assert expected_seconds(7 * 86_400.0, 0) > 7 * 86_400.0
    assert expected_seconds(100 * 600.0, 100) < 1.4 * 600.0
    assert expected_seconds(1e7, 10_000) == pytest.approx(1e3, rel=0.01)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((-1.0, 0.0, 1.0, 1.0), "a save costs -1.0 s"),
        ((0.0, math.inf, 1.0, 1.0), "travels inf s"),
        ((0.0, 0.0, 0.0, 1.0), "beside steps of 0.0 s"),
        ((0.0, 0.0, 1.0, math.inf), "failures come every inf s"),
    ],
)
def test_impossible_numbers_are_refused(
    numbers: tuple[float, float, float, float], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        save_every(*numbers)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(PlanError, match=r"-1 failures in 5\.0 s"):
        expected_seconds(5.0, -1)
