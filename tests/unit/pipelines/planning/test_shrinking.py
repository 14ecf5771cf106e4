"""The best plan over what is left: as many sequences, gangs as wide, in fewer stages."""

from dataclasses import replace

from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.links import Link
from moe.planning.search.make import make_plan
from pipelines.planning.shrinking import fewer_stages
from tests import plans
from tests.shell import MOE

THERE = Inventory(
    tuple(plans.device(f"{node}/0", node) for node in "abc"),
    (Link(("a", "b"), 1e9), Link(("b", "c"), 1e9), Link(("*", "*"), 1e8)),
)
WORK = Workload(512, 1, 6)


def test_a_node_less_takes_the_same_sequences_in_fewer_stages() -> None:
    plan = make_plan(MOE, THERE, 3, 1, WORK)
    left = THERE.only(THERE.devices[:2])
    assert [link.nodes for link in left.links] == [("a", "b"), ("*", "*")]
    found = fewer_stages(MOE, plan, WORK, left, replicas=1)
    assert found is not None
    smaller, work = found
    assert (len(smaller.stages), smaller.replicas, smaller.gang_size) == (2, 1, 1)
    assert work.micro_batches == WORK.micro_batches
    folded = fewer_stages(
        MOE,
        make_plan(MOE, THERE, 3, 1, replace(WORK, schedule="zbv"), 2),
        replace(WORK, schedule="zbv"),
        left,
        replicas=1,
    )
    assert folded is not None
    assert (folded[0].chunks, folded[0].folded, folded[1].schedule) == (2, True, "zbv")


def test_more_replicas_share_the_sequences_and_too_few_devices_have_no_plan() -> None:
    plan = make_plan(MOE, THERE, 3, 1, WORK)
    found = fewer_stages(MOE, plan, WORK, THERE.only(THERE.devices[:2]), replicas=2)
    assert found is not None
    smaller, work = found
    assert (smaller.replicas, len(smaller.stages), work.micro_batches) == (2, 1, 3)
    assert fewer_stages(MOE, plan, WORK, THERE, replicas=4) is None
    tiny = Inventory((plans.device(memory_bytes=10**8),))
    assert fewer_stages(MOE, plan, WORK, tiny, replicas=1) is None
