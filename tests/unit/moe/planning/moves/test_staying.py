"""Who stays: the fewest bytes move, a gang's processes are of one node, and none is used twice."""

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.model import ModelConfig
from moe.planning.counts.workload import Workload
from moe.planning.moves.difference import diff
from moe.planning.moves.seating import Seating
from moe.planning.moves.staying import staying
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from tests import runs
from tests.examples import examples
from tests.plans import SMOLLM2, configs, replicated, with_experts

TRAINING = Workload(8, 1, 1)
NAMES = [f"a/{number}" for number in range(12)]
MODEL = with_experts(replace(SMOLLM2, layers=4), 4)


def bytes_moved(config: ModelConfig, old: Plan, new: Plan, stays: dict[Seat, Seat]) -> int:
    return diff(config, old, new, TRAINING, Seating(stays, frozenset(), {}, {})).bytes


@settings(max_examples=examples(40))
@given(st.data())
def test_processes_of_a_gang_are_of_one_node_and_each_takes_one_seat(data: st.DataObject) -> None:
    config = data.draw(configs())
    old, new = (data.draw(replicated(config, NAMES)) for _ in range(2))
    nodes = {seat: data.draw(st.sampled_from("abc")) for seat in old.seats}
    left = data.draw(st.sets(st.sampled_from(list(old.seats)), min_size=1))
    may = {seat: node for seat, node in nodes.items() if seat in left}
    stays = staying(config, old, new, TRAINING, may)
    assert set(stays) <= set(new.seats)
    assert set(stays.values()) <= left
    assert len(set(stays.values())) == len(stays)
    for seat in stays:
        mates = [mate for mate in new.seats.gang_of(seat) if mate in stays]
        assert len({nodes[stays[mate]] for mate in mates}) == 1
    if new.gang_size == 1:
        assert len(stays) == min(len(left), len(new.seats))


@pytest.mark.parametrize(
    ("cut", "replicas"), [((1, 3), 1), ((4,), 1), ((2, 1, 1), 1), ((4,), 2), ((3, 1), 2)]
)
def test_no_other_choice_of_single_ranks_moves_less(cut: tuple[int, ...], replicas: int) -> None:
    old = runs.repeated(runs.plan(MODEL, (2, 2)), 2)
    new = runs.repeated(runs.plan(MODEL, cut), replicas)
    found = bytes_moved(MODEL, old, new, staying(MODEL, old, new, TRAINING, on_nodes(old, "abcd")))
    every = (
        dict(zip(new.seats, order, strict=True))
        for order in permutations(old.seats, len(new.seats))
    )
    assert found == min(bytes_moved(MODEL, old, new, stays) for stays in every)


def on_nodes(plan: Plan, nodes: str) -> dict[Seat, str]:
    return dict(zip(plan.seats, nodes, strict=True))


def test_under_the_same_plan_all_stay_and_nothing_moves() -> None:
    plan = runs.repeated(runs.plan(MODEL, (2, 2), (2, 1), (2, 2)), 2)
    stays = staying(MODEL, plan, plan, TRAINING, on_nodes(plan, "aabbccdd"))
    assert stays == {seat: seat for seat in plan.seats}
    assert bytes_moved(MODEL, plan, plan, stays) == 0


def test_a_gang_made_narrower_leaves_its_other_process_to_another_gang() -> None:
    old = runs.plan(MODEL, (4,), (2, 1), (2, 2))
    new = runs.plan(MODEL, (2, 2))
    stays = staying(MODEL, old, new, TRAINING, on_nodes(old, "aa"))
    assert set(stays) == set(new.seats)


def test_two_gangs_take_seats_on_one_node_round_after_round() -> None:
    old = runs.plan(MODEL, (1, 1, 1, 1))
    new = runs.plan(MODEL, (2, 2), (2, 1), (2, 2))
    stays = staying(MODEL, old, new, TRAINING, on_nodes(old, "aaaa"))
    assert set(stays) == set(new.seats)


def test_a_process_takes_no_seat_on_a_device_of_another_kind() -> None:
    old = runs.plan(MODEL, (2, 2))
    stages = tuple(
        replace(stage, ranks=tuple(replace(rank, kind="H200") for rank in stage.ranks))
        for stage in old.stages
    )
    gpus = replace(old, stages=stages)
    assert staying(MODEL, old, gpus, TRAINING, on_nodes(old, "ab")) == {}
