"""More replicas: each new gang is on one node, on devices that nobody uses."""

import pytest

from moe.errors import PlanError
from moe.planning.devices.inventory import CPU, Device, Inventory
from moe.planning.policy.growing import more_replicas
from tests import runs
from tests.routed import routed

GANG = runs.plan(routed(2), (2,), (2, 1), (2, 2))


def nodes(*counts: int) -> Inventory:
    return Inventory(
        tuple(
            Device(f"n{node}/cpu{n}", f"n{node}", CPU, 2**30, 1)
            for node, count in enumerate(counts)
            for n in range(count)
        )
    )


def test_a_new_gang_goes_to_the_node_with_the_most_devices_left() -> None:
    grown = more_replicas(GANG, 3, nodes(1, 2, 3))
    assert grown.of_replicas(1) == GANG
    homes = [[rank.devices[n].split("/")[0] for rank in grown.stages[0].ranks] for n in (1, 2)]
    assert homes == [["n2", "n2"], ["n1", "n1"]]


def test_devices_that_are_used_are_not_free() -> None:
    once = more_replicas(GANG, 2, nodes(2))
    with pytest.raises(PlanError, match="no node has 2 free devices"):
        more_replicas(once, 3, nodes(2))


def test_a_gang_is_not_spread_over_nodes() -> None:
    with pytest.raises(PlanError, match="asked for 2 replicas, but no node"):
        more_replicas(GANG, 2, nodes(1, 1))
