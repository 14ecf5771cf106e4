"""Gangs and units: who goes together, and that nobody is used twice or left out for nothing."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.links import Link
from moe.planning.search.make import make_plan
from moe.planning.stages.units import form_gangs, form_units
from tests.examples import examples
from tests.plans import SMOLLM2, device, with_experts

WORKLOAD = Workload(sequence_length=512, micro_batch=1, micro_batches=8)


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    count = draw(st.integers(1, 14))
    return Inventory(
        tuple(
            device(
                f"d{number}",
                draw(st.sampled_from("abc")),
                kind=draw(st.sampled_from(["cpu", "T4"])),
                speed=draw(st.sampled_from([1.0, 2.0])),
            )
            for number in range(count)
        )
    )


def names(there: Inventory, size: int) -> list[list[str]]:
    return [[each.name for each in gang] for gang in form_gangs(there, size)]


def test_gangs_stay_on_one_node_where_they_can() -> None:
    listed = [("a/0", "a"), ("b/0", "b"), ("a/1", "a"), ("b/1", "b"), ("a/2", "a"), ("b/2", "b")]
    there = Inventory(tuple(device(name, node) for name, node in listed))
    assert names(there, 2) == [["a/0", "a/1"], ["b/0", "b/1"], ["a/2", "b/2"]]


def test_gangs_are_of_one_kind_where_they_can() -> None:
    kinds = [("a", "A100"), ("a", "T4"), ("b", "T4"), ("b", "A100"), ("c", "L4"), ("d", "H100")]
    there = Inventory(tuple(device(f"{node}/{kind}", node, kind=kind) for node, kind in kinds))
    alike = [["a/A100", "b/A100"], ["a/T4", "b/T4"]]
    assert names(there, 2) == [*alike, ["d/H100", "c/L4"]]
    for config in (SMOLLM2, with_experts(SMOLLM2, 8)):
        made = make_plan(config, there, 3, 2, WORKLOAD)
        kinds = [tuple(rank.kind for rank in stage.ranks) for stage in made.stages]
        assert sorted(kinds) == [("A100", "A100"), ("H100", "L4"), ("T4", "T4")]


def test_fast_devices_go_with_fast() -> None:
    speeds = [1.0, 3.0, 1.0, 3.0]
    there = Inventory(tuple(device(f"a/{n}", speed=speed) for n, speed in enumerate(speeds)))
    assert names(there, 2) == [["a/0", "a/2"], ["a/1", "a/3"]]


@settings(max_examples=examples(150))
@given(inventories(), st.integers(1, 5))
def test_gangs_take_each_device_once_and_leave_too_few_for_another(
    there: Inventory, size: int
) -> None:
    gangs = form_gangs(there, size)
    taken = Counter(device.name for gang in gangs for device in gang)
    assert set(taken.values()) <= {1}
    assert all(len(gang) == size for gang in gangs)
    assert len(there.devices) - len(taken) < size


@settings(max_examples=examples(150))
@given(inventories(), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))
def test_units_take_each_gang_once_and_are_as_many_as_asked(
    there: Inventory, size: int, replicas: int, stages: int
) -> None:
    gangs = form_gangs(there, size)
    units = form_units(gangs, replicas, stages)
    taken = [gang for unit in units for gang in unit.gangs]
    assert len(set(taken)) == len(taken)
    assert set(taken) <= set(gangs)
    for unit in units:
        assert len(unit.gangs) == replicas
        assert all(len({each.kind for each in column}) == 1 for column in unit.columns)
        assert [column[-1] for column in unit.columns] == list(unit.gangs[-1])
    of_kinds = {tuple(device.kind for device in gang) for gang in gangs}
    if len(of_kinds) == 1:
        assert len(units) >= min(stages, len(gangs) // replicas)


def test_replicas_lie_one_after_the_other_in_the_inventory() -> None:
    there = Inventory(tuple(device(f"d{number}", "ab"[number // 2]) for number in range(4)))
    first, second = form_units(form_gangs(there, 1), 2, 2)
    assert [gang[0].name for gang in first.gangs] == ["d0", "d2"]
    assert [gang[0].name for gang in second.gangs] == ["d1", "d3"]
    assert first.nodes == (("a",), ("b",)) == second.nodes


def test_members_on_one_node_need_its_link_where_others_are_elsewhere() -> None:
    """Two of three members are on node a, whose devices may have no link to each other."""
    listed = [("a/0", "a"), ("a/1", "a"), ("b/0", "b")]
    devices = tuple(device(name, node) for name, node in listed)
    assert names(Inventory(devices, (Link(("a",), 0.0),)), 3) == []
    assert names(Inventory(devices, (Link(("b",), 0.0),)), 3) == [["a/0", "a/1", "b/0"]]
