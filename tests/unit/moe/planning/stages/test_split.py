"""The width split: sums, floors, and the best apportionment by exhaustive search."""

from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import PlanError
from moe.planning.stages.split import groups, spans, split


def every_split(total: int, parts: int) -> list[tuple[int, ...]]:
    cuts = combinations(range(1, total), parts - 1)
    return [
        tuple(stop - start for start, stop in zip((0, *cut), (*cut, total), strict=True))
        for cut in cuts
    ]


def test_heads_of_the_paper() -> None:
    assert split(36, 8) == (5, 5, 5, 5, 4, 4, 4, 4)


@given(total=st.integers(1, 400), parts=st.integers(1, 40))
def test_even_split_is_divmod(total: int, parts: int) -> None:
    if parts > total:
        with pytest.raises(PlanError, match=f"{total} cannot be split into {parts} parts"):
            split(total, parts)
        return
    shares = split(total, parts)
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1
    assert list(shares) == sorted(shares, reverse=True)
    assert shares == split(total, parts, [0.7] * parts)


@given(
    total=st.integers(1, 400),
    weights=st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=12),
)
def test_any_weights_leave_each_at_least_one(total: int, weights: list[float]) -> None:
    if len(weights) > total:
        return
    shares = split(total, len(weights), weights)
    assert sum(shares) == total
    assert min(shares) >= 1


@given(total=st.integers(1, 11), weights=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_weighted_split_is_nearest_to_the_quotas(total: int, weights: list[int]) -> None:
    parts = len(weights)
    if parts > total or min(weights) * total < sum(weights):
        return
    quotas = [Fraction(weight * total, sum(weights)) for weight in weights]

    def distance(shares: tuple[int, ...]) -> Fraction:
        return sum(
            ((share - quota) ** 2 for share, quota in zip(shares, quotas, strict=True)),
            Fraction(0),
        )

    shares = split(total, parts, weights)
    assert distance(shares) == min(distance(other) for other in every_split(total, parts))


def test_a_slow_rank_still_holds_one() -> None:
    assert split(8, 3, [1000.0, 1000.0, 1.0]) == (4, 3, 1)


def test_spans_and_groups_are_contiguous() -> None:
    assert spans((2, 1)) == ((0, 2), (2, 3))
    assert groups((2, 1)) == ((0, 1), (2,))


@pytest.mark.parametrize(
    ("parts", "weights", "message"),
    [
        (0, None, "asked for 0 parts of 4"),
        (2, [1.0], "1 weights for 2 parts"),
        (2, [1.0, 0.0], "weight 0.0 is not a finite number above 0"),
        (2, [1.0, float("nan")], "weight nan"),
        (2, [1.0, float("inf")], "weight inf"),
    ],
)
def test_faults_are_named(parts: int, weights: list[float] | None, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        split(4, parts, weights)
