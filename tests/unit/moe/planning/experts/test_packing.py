"""Filling and evening out: slots kept, no expert twice, chains where the last copies are stuck."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.planning.experts.packing import Ranks, entries, even_out, fill
from moe.planning.experts.replication import copy_counts
from tests.examples import examples


@st.composite
def gangs(draw: st.DrawFn) -> tuple[Ranks, np.ndarray]:
    """Ranks with unlike slots and speeds, and loads of experts that fit, in two layers."""
    experts = draw(st.integers(1, 7))
    slots = draw(st.lists(st.integers(1, experts), min_size=1, max_size=5))
    while sum(slots) < experts:
        slots.append(experts)
    speeds = draw(
        st.lists(st.sampled_from([1.0, 0.5, 0.3]), min_size=len(slots), max_size=len(slots))
    )
    row = st.lists(st.integers(0, 40), min_size=experts, max_size=experts)
    loads = np.array([draw(row), draw(row)], dtype=float)
    return Ranks(np.array(slots), np.array(speeds)), loads


@settings(max_examples=examples(80))
@given(gang=gangs(), data=st.data())
def test_every_slot_is_used_and_no_expert_is_twice_on_a_rank(
    gang: tuple[Ranks, np.ndarray], data: st.DataObject
) -> None:
    ranks, loads = gang
    spare = int(ranks.slots.sum()) - loads.shape[1]
    counts = copy_counts(loads, ranks.slots, data.draw(st.integers(0, spare)))
    none = np.zeros((2, len(ranks.slots), loads.shape[1]), dtype=bool)
    shares = loads / counts
    held = fill(none, counts, shares, ranks)
    assert (held.sum(axis=2) == ranks.slots).all()
    assert (held.sum(axis=1) == counts).all()
    evened = even_out(held, shares, ranks, ranks.perfect(loads))
    assert (evened.sum(axis=2) == ranks.slots).all()
    assert (evened.sum(axis=1) == counts).all()
    before, after = ranks.times(held, shares), ranks.times(evened, shares)
    assert (after.max(axis=1) <= before.max(axis=1) * (1 + 1e-9)).all()


@settings(max_examples=examples(50))
@given(gang=gangs(), data=st.data())
def test_what_is_held_stays_or_makes_room(
    gang: tuple[Ranks, np.ndarray], data: st.DataObject
) -> None:
    ranks, loads = gang
    counts = copy_counts(loads, ranks.slots, 0)
    none = np.zeros((2, len(ranks.slots), loads.shape[1]), dtype=bool)
    full = fill(none, counts, loads / counts, ranks)
    layer, rank, expert = entries(full)
    out = data.draw(st.lists(st.integers(0, len(layer) - 1), unique=True, max_size=6))
    part = full.copy()
    part[layer[out], rank[out], expert[out]] = False
    again = fill(part, counts - part.sum(axis=1), loads / counts, ranks)
    assert (again.sum(axis=2) == ranks.slots).all()
    assert (again.sum(axis=1) == counts).all()


def test_a_chain_of_moves_makes_room() -> None:
    ranks = Ranks(np.array([2, 1, 1]), np.ones(3))
    held = np.zeros((1, 3, 3), dtype=bool)
    held[0, 0, 0] = held[0, 1, 1] = held[0, 2, 2] = True
    filled = fill(held, np.array([[1, 0, 0]]), np.ones((1, 3)), ranks)
    assert filled.sum(axis=1).tolist() == [[2, 1, 1]]
    assert filled.sum(axis=2).tolist() == [[2, 1, 1]]


def test_swaps_end_where_no_swap_with_the_slowest_helps() -> None:
    random = np.random.default_rng(5)
    ranks = Ranks(np.full(4, 3), np.array([1.0, 1.0, 0.7, 0.4]))
    loads = random.integers(0, 100, (20, 12)).astype(float)
    none = np.zeros((20, 4, 12), dtype=bool)
    held = fill(none, np.ones((20, 12), dtype=int), loads, ranks)
    evened = even_out(held, loads, ranks, ranks.perfect(loads))
    times = ranks.times(evened, loads)
    for layer, slowest in enumerate(times.argmax(axis=1)):
        mine, others = np.flatnonzero(evened[layer, slowest]), np.argwhere(evened[layer])
        for out in mine:
            for rank, back in others:
                less = loads[layer, out] - loads[layer, back]
                pair = (
                    times[layer, slowest] - less / ranks.speeds[slowest],
                    times[layer, rank] + less / ranks.speeds[rank],
                )
                assert rank == slowest or max(pair) >= times[layer, slowest] * (1 - 1e-9)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 5)])
def test_entries_are_those_of_nonzero(shape: tuple[int, ...]) -> None:
    held = np.random.default_rng(1).random(shape) < 0.5
    for mine, theirs in zip(entries(held), np.nonzero(held), strict=True):
        assert mine.tolist() == theirs.tolist()


def test_the_example_of_a_swap() -> None:
    loads = np.array([[3.0, 3, 2, 2, 2, 0]])
    ranks = Ranks(np.array([3, 3]), np.ones(2))
    held = fill(np.zeros((1, 2, 6), dtype=bool), np.ones((1, 6), dtype=int), loads, ranks)
    assert [np.flatnonzero(row).tolist() for row in held[0]] == [[0, 2, 4], [1, 3, 5]]
    assert ranks.times(held, loads).tolist() == [[7, 5]]
    evened = even_out(held, loads, ranks, ranks.perfect(loads))
    assert [np.flatnonzero(row).tolist() for row in evened[0]] == [[2, 3, 4], [0, 1, 5]]
    assert ranks.times(evened, loads).tolist() == [[6, 6]]
