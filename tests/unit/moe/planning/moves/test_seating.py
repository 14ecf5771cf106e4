"""Who of an old plan takes which seat of a new one, by the devices that both name."""

from dataclasses import replace

import pytest

from moe.errors import PlanError
from moe.planning.devices.inventory import Inventory
from moe.planning.moves.seating import device_of, seated_by_device
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from tests.plans import SMOLLM2, device, single


def plan(*stages: tuple[str, ...]) -> Plan:
    """Return a plan of stages of one rank, by the device of each replica."""
    config = replace(SMOLLM2, layers=len(stages))
    (stage,) = single(config).stages
    made = (
        replace(stage, layers=(n, n + 1), ranks=(replace(stage.ranks[0], devices=names),))
        for n, names in enumerate(stages)
    )
    return Plan(config.summary(), tuple(made))


def test_a_device_keeps_its_rank_whatever_its_seat() -> None:
    old, new = plan(("a/0", "b/0"), ("a/1", "b/1")), plan(("a/1",), ("c/0",))
    seating = seated_by_device(old, new)
    assert seating.stays == {Seat(0, 0, 0): Seat(0, 1, 0)}
    assert not seating.lost
    assert not seating.old_nodes
    assert device_of(old, Seat(1, 1, 0)) == "b/1"


def test_a_device_of_several_ranks_keeps_them_in_order() -> None:
    old, new = plan(("a", "a"), ("a", "a")), plan(("a",), ("a",), ("a",))
    stays = seated_by_device(old, new).stays
    assert list(stays.values()) == list(old.seats)[:3]


def test_an_inventory_says_who_is_lost_and_where_others_are() -> None:
    old, new = plan(("a/0", "b/0")), plan(("a/0", "c/0"))
    there = Inventory((device("a/0", "a"), device("c/0", "c")))
    seating = seated_by_device(old, new, there)
    assert seating.lost == {Seat(1, 0, 0)}
    assert seating.old_nodes == {Seat(0, 0, 0): "a"}
    assert seating.new_nodes == {Seat(0, 0, 0): "a", Seat(1, 0, 0): "c"}


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(PlanError, match="the plan uses device a/0, the inventory has z/0"):
        seated_by_device(plan(("a/0",)), plan(("a/0",)), Inventory((device("z/0", "z"),)))
