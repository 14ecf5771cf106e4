"""A search near an old plan: as good a plan as without, that moves the least there is to move."""

from dataclasses import replace
from itertools import permutations

import pytest

from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.moves.difference import diff
from moe.planning.moves.seating import device_of, seated_by_device
from moe.planning.plan.plan import Plan
from moe.planning.search.pins import Pins
from moe.planning.search.question import Question
from moe.planning.search.search import search
from tests.plans import SMOLLM2, inventory, with_experts

CONFIG = with_experts(SMOLLM2, 4)
WORKLOAD = Workload(sequence_length=64, micro_batch=1, micro_batches=8)


def renamed(plan: Plan, names: dict[str, str]) -> Plan:
    """Return the plan on other devices."""
    stages = (
        replace(
            stage,
            ranks=tuple(
                replace(rank, devices=tuple(names[each] for each in rank.devices))
                for rank in stage.ranks
            ),
        )
        for stage in plan.stages
    )
    return replace(plan, stages=tuple(stages))


def question(there: Inventory, stages: int, gang: int, near: Plan | None) -> Question:
    pins = Pins(stages=stages, gang=gang, replicas=1, micro_batch=1)
    return Question(CONFIG, there, WORKLOAD, 8, pins, near=near)


@pytest.mark.parametrize(("stages", "gang"), [(4, 1), (2, 2)])
def test_a_plan_with_its_devices_shuffled_stays_where_it_was(stages: int, gang: int) -> None:
    there = inventory(4)
    plan = search(question(there, stages, gang, None)).plan
    names = [device.name for device in there.devices]
    for order in list(permutations(names))[::5]:
        old = renamed(plan, dict(zip(names, order, strict=True)))
        found = search(question(there, stages, gang, old))
        seating = seated_by_device(old, found.plan)
        assert diff(CONFIG, old, found.plan, WORKLOAD, seating).bytes == 0
        assert found.best.seconds == search(question(there, stages, gang, None)).best.seconds


def test_a_lost_device_moves_only_what_it_held_and_what_shifts() -> None:
    there = inventory(4)
    old = search(question(there, 3, 1, None)).plan
    lost = old.stages[1].ranks[0].device
    left = Inventory(tuple(device for device in there.devices if device.name != lost))
    found = search(question(left, 3, 1, old)).plan
    held = {stage.ranks[0].device: stage.layers for stage in old.stages}
    for stage in found.stages:
        device = stage.ranks[0].device
        assert held.get(device, stage.layers) == stage.layers
    moved = diff(CONFIG, old, found, WORKLOAD, seated_by_device(old, found, left))
    assert moved.bytes > 0
    received = {device_of(found, seat) for seat in moved.received}
    assert received == {d.name for d in left.devices} - set(held)
