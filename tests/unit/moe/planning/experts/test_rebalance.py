"""Placements: never worse than the plain way, near the optimum, moved only where it pays."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import placement as benchmark
from moe.errors import PlanError
from moe.planning.experts.expert_layout import ExpertLayout, moves
from moe.planning.experts.rebalance import KEEP, NEAR, arrange, improve, replicate
from tests.examples import examples

ROUNDING = 1 + 1e-9


def slowest(layout: ExpertLayout, load: np.ndarray, speeds: Sequence[float] = ()) -> np.ndarray:
    return (layout.rank_loads(load) / (np.array(speeds) if len(speeds) else 1)).max(axis=1)


def plain(load: np.ndarray, slots: Sequence[int]) -> np.ndarray:
    return np.array([benchmark.heaviest(row, benchmark.plain(row, slots)) for row in load.tolist()])


def optimum(load: Sequence[float], slots: Sequence[int], speeds: Sequence[float]) -> float:
    """The least possible time of the slowest rank, every expert once; by trying everything."""

    def rest(free: frozenset[int], rank: int) -> float:
        if rank == len(slots):
            return 0.0
        return min(
            max(sum(load[e] for e in chosen) / speeds[rank], rest(free - set(chosen), rank + 1))
            for chosen in combinations(sorted(free), slots[rank])
        )

    return rest(frozenset(range(len(load))), 0)


@st.composite
def cases(draw: st.DrawFn, most: int = 12, ranks: int = 4) -> tuple[np.ndarray, list[int]]:
    """Whole loads of some layers and the slots of ranks that hold each expert once."""
    slots = draw(st.lists(st.integers(1, most // ranks), min_size=1, max_size=ranks))
    row = st.lists(st.integers(0, 100), min_size=sum(slots), max_size=sum(slots))
    return np.array(draw(st.lists(row, min_size=1, max_size=4))), slots


@settings(max_examples=examples(80))
@given(case=cases(most=24, ranks=6))
def test_no_layer_is_less_even_than_the_plain_way(case: tuple[np.ndarray, list[int]]) -> None:
    load, slots = case
    layout = arrange(load, slots)
    assert layout.slots == tuple(slots)
    assert (layout.copies().sum(axis=1) == 1).all()
    assert (slowest(layout, load) <= plain(load, slots) * ROUNDING).all()


@settings(max_examples=examples(80))
@given(
    ranks=st.integers(1, 6),
    width=st.integers(1, 6),
    load=st.lists(st.integers(0, 100), min_size=6, max_size=12),
)
def test_copies_are_no_less_even_than_the_plain_way(
    ranks: int, width: int, load: list[int]
) -> None:
    if ranks * width < len(load):
        return
    table, slots = np.array([load, load[::-1]]), [width] * ranks
    layout = replicate(table, slots)
    bar = plain(table, slots)
    assert layout.slots == tuple(slots)
    assert (slowest(layout, table) <= bar * ROUNDING).all()


@settings(max_examples=examples(40))
@given(case=cases(most=8, ranks=3), data=st.data())
def test_within_a_proved_bound_of_the_optimum(
    case: tuple[np.ndarray, list[int]], data: st.DataObject
) -> None:
    load, _ = case
    ranks = data.draw(st.sampled_from([r for r in (1, 2, 3, 4) if load.shape[1] % r == 0]))
    slots = [load.shape[1] // ranks] * ranks
    found = slowest(arrange(load, slots), load)
    best = [optimum(row, slots, [1.0] * ranks) for row in load.tolist()]
    assert (found <= np.array(best) * max(2 - 1 / ranks, 1 + NEAR) * ROUNDING).all()


@pytest.mark.parametrize(
    ("slots", "speeds", "least", "worst"),
    [
        ([3, 3], [1, 1], 0.95, 1.02),
        ([4, 4], [1, 1], 0.95, 1.02),
        ([3, 3, 3], [1, 1, 1], 0.95, 1.02),
        ([3, 2], [1, 1], 0.95, 1.02),
        ([2, 2, 2, 2], [1, 1, 1, 1], 0.95, 1.02),
        ([4, 2], [2, 1], 0.95, 1.02),
        ([3, 3, 2], [1, 0.5, 0.5], 0.9, 1.06),
    ],
)
def test_mostly_the_optimum(
    slots: list[int], speeds: list[float], least: float, worst: float
) -> None:
    load = np.random.default_rng(7).integers(0, 100, (60, sum(slots)))
    found = slowest(arrange(load, slots, speeds), load, speeds)
    ratios = found / [optimum(row, slots, speeds) for row in load.tolist()]
    assert (ratios >= 1 / ROUNDING).all()
    assert (ratios <= ROUNDING).mean() >= least
    assert ratios.max() <= worst


def test_the_traces_of_the_benchmark() -> None:
    for load in benchmark.traces(np.random.default_rng(3)).values():
        for way, width in ((arrange, 8), (replicate, 9)):
            few, slots = load[:6], [width] * 32
            assert (slowest(way(few, slots), few) <= plain(few, slots) * ROUNDING).all()


def test_hot_experts_are_copied_to_different_ranks() -> None:
    load = benchmark.traces(np.random.default_rng(3))["zipf"][:8]
    copies = replicate(load, [9] * 32).copies()
    assert copies.max() == 1
    assert (copies.sum(axis=1)[load == load.max(axis=1, keepdims=True)] >= 5).all()


def test_an_expert_is_twice_on_a_rank_only_where_that_is_faster() -> None:
    assert replicate([[10, 10, 0]], [2, 2]).experts == (((0, 2), (1, 2)),)
    assert replicate([[3, 2, 1]], [2, 2]).experts == (((1, 2), (0, 0)),)


def test_a_fast_rank_takes_more() -> None:
    layout = arrange([[8, 4, 2, 1]], [2, 2], speeds=[4, 1])
    assert layout.experts == (((0, 1), (2, 3)),)
    assert arrange([[8, 4, 2, 1]], [2, 2], speeds=[400, 100]) == layout


def test_layers_are_named() -> None:
    assert arrange([[1], [2]], [1], layers=[4, 7]).layers == (4, 7)
    with pytest.raises(PlanError, match="names 1 layers and lists the experts of 2"):
        arrange([[1], [2]], [1], layers=[4])


@pytest.mark.parametrize("width", [8, 9])
@pytest.mark.parametrize("change", [0.1, 0.5])
def test_improving_moves_little_and_loses_little(width: int, change: float) -> None:
    before, after = benchmark.drift(np.random.default_rng(2), 2, change)
    slots = [width] * 32
    old, anew = replicate(before[:12], slots), replicate(after[:12], slots)
    new = improve(old, after[:12], threshold=0.1)
    now, then = slowest(old, after[:12]), slowest(new, after[:12])
    best = slowest(anew, after[:12])
    changed = np.array([a != b for a, b in zip(old.experts, new.experts, strict=True)])
    assert changed.any()
    assert (changed == (best <= 0.9 * now)).all()
    assert (then[changed] <= 0.9 * now[changed] * ROUNDING).all()
    assert (then[changed] <= best[changed] * (1 + KEEP) * ROUNDING).all()
    assert len(moves(old, new)) < 0.3 * len(moves(old, anew)) * changed.mean()


@settings(max_examples=examples(80))
@given(
    old=st.lists(st.integers(0, 100), min_size=6, max_size=6),
    new=st.lists(st.integers(0, 100), min_size=6, max_size=6),
    slots=st.sampled_from([[3, 3], [2, 2, 2], [4, 1, 1], [4, 4], [4, 2, 2], [3, 3, 3], [2] * 6]),
    threshold=st.sampled_from([0.0, 0.1, 0.4]),
)
def test_improving_pays_or_does_nothing(
    old: list[int], new: list[int], slots: list[int], threshold: float
) -> None:
    speeds = [1.0] * len(slots)
    current = replicate([old], slots, speeds)
    better = improve(current, [new], threshold, speeds)
    assert better.slots == current.slots
    now, then = slowest(current, np.array([new])), slowest(better, np.array([new]))
    if better is current:
        return
    assert (then <= now * (1 - threshold) * ROUNDING).all()
    assert then[0] < now[0]


def test_improving_leaves_alone_what_cannot_be_better() -> None:
    even = ExpertLayout((0,), (((2, 3), (0, 1)),))
    assert improve(even, [[5, 5, 5, 5]], threshold=0) is even
    repeated = ExpertLayout((0,), (((1, 2), (0, 0)),))
    assert improve(repeated, [[3, 2, 1]], threshold=0) is repeated


@pytest.mark.parametrize("slots", [[3, 3], [4, 4], [2, 2, 2], [3, 3, 3], [2] * 6])
def test_small_gangs_move_less_than_placed_anew(slots: list[int]) -> None:
    random = np.random.default_rng(4)
    before, after = random.exponential(size=(2, 40, 6))
    old, anew = replicate(before, slots), replicate(after, slots)
    new = improve(old, after)
    changed = {each for each in old.layers if old.of(each) != new.of(each)}
    assert len(changed) >= 5
    few = len(moves(old, new))
    many = sum(move.layer in changed for move in moves(old, anew))
    assert few < 0.9 * many


@pytest.mark.parametrize(
    ("load", "slots", "speeds", "message"),
    [
        ([[1, -1]], [1, 1], None, "row 0 of the load: expert 1 has -1.0"),
        ([[1, float("nan")]], [1, 1], None, "expert 1 has nan"),
        ([[1, float("inf")]], [1, 1], None, "expert 1 has inf"),
        ([[1e308, 1e308]], [1, 1], None, "too large to add up"),
        ([1, 1], [1, 1], None, r"shape \(2,\)"),
        ([[]], [1], None, r"shape \(1, 0\)"),
        ([[1, 2], [1]], [1, 1], None, "not a table of numbers"),
        ([["a", "b"]], [1, 1], None, "not a table of numbers"),
        ([[1, 1, 1]], [1, 1], None, "2 slots for 3 experts; add slots"),
        ([[1, 1]], [2, 1], None, "3 slots for 2 experts; take slots away, or fill"),
        ([[1, 1]], [3], None, "rank 0 has 3 slots but there are 2 experts"),
        ([[1, 1]], [2, 0], None, "rank 1 has 0 slots"),
        ([[1, 1]], [1, 1.0], None, "rank 1 has 1.0 slots"),
        ([[1, 1]], [], None, "the gang has no rank"),
        ([[1, 1]], [1, 1], [1], "1 speeds for 2 ranks"),
        ([[1, 1]], [1, 1], [1, 0], "rank 1 has speed 0.0"),
        ([[1, 1]], [1, 1], [1, -2], "rank 1 has speed -2.0"),
        ([[1, 1]], [1, 1], [1, float("inf")], "rank 1 has speed inf"),
        ([[1, 1]], [1, 1], [1, 1e-9], "leave it out of the gang"),
    ],
)
def test_faults_are_named(
    load: list[list[float]], slots: list[int], speeds: list[float] | None, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        arrange(load, slots, speeds)


def test_faults_of_copies_and_improvements_are_named() -> None:
    with pytest.raises(PlanError, match="2 slots for 3 experts"):
        replicate([[1, 1, 1]], [1, 1])
    with pytest.raises(PlanError, match="give no rank more than 2 slots"):
        replicate([[1, 1]], [3, 2])
    current = arrange([[1, 1]], [1, 1])
    for threshold in (-0.1, 1.0, float("nan")):
        with pytest.raises(PlanError, match="threshold is"):
            improve(current, [[1, 1]], threshold)
    with pytest.raises(PlanError, match="1 layers and 2 experts, the load 1 and 3"):
        improve(current, [[1, 1, 1]])
