"""Paces: counted work corrected by measurements, against numpy's interpolation."""

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import PlanError
from moe.planning.counts.passes import Passes, Work
from moe.planning.devices.pace import Measured, Pace, Profile, from_table, to_tables
from moe.planning.devices.rates import Rates

RATES = Rates(flops_per_second=1e9, bytes_per_second=1e8)
WORK = Passes(Work(2e9, 1e8), Work(4e9, 0.0))


def test_counted_work_takes_the_time_of_its_flops_and_of_its_bytes() -> None:
    assert Pace(RATES).seconds("dense", WORK, 512) == (3.0, 4.0)
    assert Pace(RATES).once("optimizer", WORK.forward) == 3.0


def test_products_of_a_backward_pass_have_rates_of_their_own() -> None:
    """Of 4 GFLOP half are gradients of inputs, at 2 GFLOP/s, and half of weights, at 0.5."""
    rates = Rates(1e9, 1e8, 2e9, 0.5e9)
    assert Pace(rates).seconds("dense", WORK, 512) == pytest.approx((3.0, 1.0 + 4.0))
    assert rates.times(2.0).backward_flops_per_second == pytest.approx(2 * 0.8e9)
    assert RATES.backward_flops_per_second == pytest.approx(1e9)


@given(
    st.dictionaries(
        st.integers(1, 5000),
        st.tuples(*[st.floats(0.01, 100)] * 4),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 6000),
)
def test_measured_over_counted_is_interpolated_and_held_at_the_ends(
    curve: dict[int, tuple[float, float, float, float]], tokens: int
) -> None:
    pace = Pace(RATES, tuple(Measured("moe", size, *times) for size, times in curve.items()))
    sizes = sorted(curve)
    expected = [
        np.interp(tokens, sizes, [curve[size][way] / curve[size][way + 2] for size in sizes])
        for way in (0, 1)
    ]
    forward, backward = pace.seconds("moe", WORK, tokens)
    assert (forward / 3, backward / 4) == pytest.approx(expected, rel=1e-9)


def test_what_was_not_measured_is_corrected_like_the_products_that_were() -> None:
    parts = (Measured("dense", 512, 2.0, 3.0, 1.0, 1.0), Measured("moe", 512, 4.0, 5.0, 1.0, 1.0))
    pace = Pace(RATES, parts)
    assert pace.seconds("dense", WORK, 512) == (2 * 3.0, 3 * 4.0)
    assert pace.seconds("head", WORK, 512) == (3 * 3.0, 4 * 4.0)
    alone = Pace(RATES, (Measured("optimizer", 1, 9.0, 9.0, 1.0, 1.0),))
    assert alone.seconds("dense", WORK, 512) == (3.0, 4.0)
    assert alone.once("optimizer", WORK.forward) == 27.0


def test_a_part_that_counts_nothing_forward_is_not_corrected_forward() -> None:
    pace = Pace(RATES, (Measured("embedding", 512, 0.1, 0.3, 0.0, 0.1),))
    assert pace.seconds("embedding", WORK, 512) == pytest.approx((3.0, 12.0))


@pytest.mark.parametrize(
    ("part", "tokens", "time", "message"),
    [
        ("heads", 1, 1.0, "a profile measures heads; known parts: embedding, dense"),
        ("head", 0, 1.0, "has 0 tokens"),
        ("head", 1, -1.0, "finite seconds"),
        ("head", 1, inf, "finite seconds"),
    ],
)
def test_measurements_that_are_none_are_refused(
    part: str, tokens: int, time: float, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        Measured(part, tokens, time, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("rate", [0.0, -1.0, inf])
def test_rates_that_are_none_are_refused(rate: float) -> None:
    with pytest.raises(PlanError, match="give finite numbers above 0"):
        Profile("cpu", 1, Rates(rate, 1.0))


def test_a_profile_names_the_precision_and_the_roles_that_were_measured() -> None:
    whole = Profile("cpu", 1, Rates(1.0, 2.0, 3.0, 4.0), precision="bf16")
    (table,) = to_tables([whole])
    assert from_table(table) == whole
    plain = {"kind": "cpu", "threads": 1, "flops_per_second": 1.0, "bytes_per_second": 2.0}
    assert from_table(plain) == Profile("cpu", 1, Rates(1.0, 2.0))
    with pytest.raises(PlanError, match="precision 'fp8'"):
        from_table({**plain, "precision": "fp8"})
    with pytest.raises(PlanError, match="of backward products; give finite numbers"):
        from_table({**plain, "input_flops_per_second": -1.0})
