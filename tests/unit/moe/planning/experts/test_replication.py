"""Numbers of copies: against the rule taken one copy at a time, and against all that would fit."""

from itertools import combinations, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import placement as benchmark
from moe.planning.experts.packing import Ranks
from moe.planning.experts.replication import copy_counts, plain, useful_copies
from tests.examples import examples


def fits(counts: tuple[int, ...], slots: tuple[int, ...]) -> bool:
    """Try every set of experts for the first rank, and so on."""
    if not slots:
        return not any(counts)
    there = [expert for expert, count in enumerate(counts) if count]
    return any(
        fits(tuple(c - (e in chosen) for e, c in enumerate(counts)), slots[1:])
        for chosen in combinations(there, slots[0])
    )


@settings(max_examples=examples(60))
@given(
    slots=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    load=st.lists(st.integers(0, 50), min_size=4, max_size=4),
)
def test_copies_fill_the_slots_and_are_the_best_that_fit(slots: list[int], load: list[int]) -> None:
    total = sum(slots)
    if total < len(load):
        return
    for useful in useful_copies(total - len(load)) or (0,):
        counts = copy_counts(np.array([load], dtype=float), np.array(slots), useful)[0]
        assert counts.sum() == total
        assert fits(tuple(counts.tolist()), tuple(slots))
    most = copy_counts(np.array([load], dtype=float), np.array(slots), total)[0]
    share = max(each / count for each, count in zip(load, most, strict=True))
    every = product(range(1, len(slots) + 1), repeat=len(load))
    possible = [each for each in every if sum(each) == total and fits(each, tuple(slots))]
    assert share == min(max(x / c for x, c in zip(load, each, strict=True)) for each in possible)


@settings(max_examples=examples(50))
@given(
    load=st.lists(st.integers(0, 60), min_size=2, max_size=8),
    ranks=st.integers(1, 4),
    width=st.integers(1, 6),
)
def test_the_plain_way_is_that_of_the_benchmark(load: list[int], ranks: int, width: int) -> None:
    slots = [width] * ranks
    if sum(slots) < len(load):
        return
    gang = Ranks(np.array(slots), np.ones(ranks))
    copies = plain(np.array([load], dtype=float), gang).copies(len(load))[0]
    shares = np.array(load) / copies.sum(axis=0)
    assert np.isclose(
        (copies @ shares).max(), benchmark.heaviest(load, benchmark.plain(load, slots))
    )


def test_tried_numbers_of_copies() -> None:
    assert useful_copies(3) == (3, 2, 1, 0)
    assert useful_copies(32) == (32, 28, 24, 20, 16, 12, 8, 4, 0)
    assert useful_copies(0) == ()
