"""Pins: what may be written, what it means, and every fault by its own message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import PlanError
from moe.planning.search.pins import NO_PINS, Pins, parse_pins

counts = st.integers(1, 999)


@given(st.lists(st.tuples(counts, st.integers(0, 9)), min_size=1, max_size=5), counts, counts)
def test_what_is_written_is_what_is_pinned(
    stages: list[tuple[int, int]], gang: int, replicas: int
) -> None:
    layers = tuple(held for held, _ in stages)
    again = tuple(min(each) for each in stages)
    names = tuple(f"a/{number}" for number in range(len(stages)))
    written = [
        f"layers={','.join(map(str, layers))}",
        f"recompute={','.join(map(str, again))}",
        f"order={','.join(names)}",
        f"gang={gang}",
        f"replicas={replicas}",
        "micro_batch=4",
    ]
    pins = parse_pins(written)
    assert pins == Pins(
        gang=gang, replicas=replicas, micro_batch=4, layers=layers, recompute=again, order=names
    )
    assert pins.depth == len(stages)


def test_no_pin_leaves_all_open() -> None:
    assert parse_pins([]) == NO_PINS
    assert NO_PINS.depth is None
    assert parse_pins(["stages=3"]).depth == 3


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (["stage=3"], "no pin 'stage' in 'stage=3'; did you mean stages"),
        (["stages"], "the pin 'stages' has no whole numbers; write it like stages=4"),
        (["stages=2.5"], "'stages=2.5' has no whole numbers"),
        (["stages=2,3"], "'stages=2,3' has 2 numbers; stages is one"),
        (["stages=0"], "stages is pinned to 0; pin it to at least 1"),
        (["gang=-1"], "gang is pinned to -1"),
        (["gang=2", "gang=2"], "gang is pinned twice; pin it once"),
        (["layers=4,0"], r"layers are pinned to \[4, 0\]; a stage holds at least one"),
        (["layers=4,4", "stages=3"], r"unlike numbers of stages \(layers 2, stages 3\)"),
        (["layers=4,4", "order=a"], r"unlike numbers of stages \(layers 2, order 1\)"),
        (["recompute=1,1"], "recompute is pinned but layers are not"),
        (["layers=2,2", "recompute=1,3"], r"recompute is pinned to \[1, 3\] of \[2, 2\] layers"),
        (["layers=2,2", "recompute=-1,0"], "a stage recomputes none to all of its layers"),
    ],
)
def test_faults_are_named(written: list[str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_pins(written)
