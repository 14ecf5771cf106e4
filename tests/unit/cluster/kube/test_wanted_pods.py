"""How many pods each group has once a wish is met."""

from dataclasses import replace
from typing import Any

import pytest

from cluster.kube.wanted_pods import pods_of_nodes, pods_of_plan, pods_of_replicas
from cluster.kube.worker_groups import GroupSeen, Size
from moe.errors import ClusterError, ConfigError
from moe.planning.plan.plan import Plan
from tests.manifests.samples import (
    GIB,
    GPU_KINDS,
    ON_CPUS,
    ON_GPUS,
    asking,
    cluster,
    two_stages,
)


def groups(**busy: int) -> list[GroupSeen]:
    pods = {name: frozenset(f"{name}-{n}" for n in range(count)) for name, count in busy.items()}
    return [GroupSeen(name, Size(9, 9), busy=there) for name, there in pods.items()]


def test_more_replicas_have_the_pods_that_each_has_now() -> None:
    assert pods_of_replicas(groups(a=2, b=4), 2, 3, 5) == {"a": 5, "b": 10}
    assert pods_of_replicas(groups(a=2, b=0), 1, 2, 3) == {"a": 6, "b": 0}


def test_a_run_that_is_not_whole_is_waited_for() -> None:
    with pytest.raises(ClusterError, match=r"5 pods have ranks of the run's 6 gangs"):
        pods_of_replicas(groups(a=2, b=3), 2, 3, 5)


def test_replicas_that_differ_need_a_plan() -> None:
    with pytest.raises(ClusterError, match="unlike pods of a, b; say by --plan"):
        pods_of_replicas(groups(a=1, b=3), 2, 2, 3)


def test_nodes_are_pods_of_the_one_group_with_ranks() -> None:
    assert pods_of_nodes(groups(a=0, b=2), 5) == {"b": 5}
    with pytest.raises(ConfigError, match=r"2 groups \(a, b\) have ranks"):
        pods_of_nodes(groups(a=1, b=2), 5)


def twice(plan: Plan) -> Plan:
    """Return the plan with a second replica."""
    stages = [
        replace(
            stage,
            ranks=tuple(replace(rank, devices=(*rank.devices, "any/1")) for rank in stage.ranks),
        )
        for stage in plan.stages
    ]
    return replace(plan, stages=tuple(stages))


def reserved(plan: Plan) -> Plan:
    """Return a plan whose second stage reserves three times as much memory as its first."""
    for stage, memory in enumerate((GIB, 3 * GIB)):
        for member in range(2):
            plan = asking(plan, stage, member, memory_bytes=memory)
    return plan


@pytest.mark.parametrize(
    ("plan", "options"),
    [
        (reserved(two_stages()), ON_CPUS),
        (reserved(two_stages(GPU_KINDS)), ON_GPUS),
        (two_stages(("A100", "A100")), ON_GPUS),
    ],
)
def test_the_plan_that_was_rendered_has_the_pods_that_were_rendered(
    plan: Plan, options: Any
) -> None:
    for each in (plan, twice(plan)):
        table = cluster(each, options)
        rendered = {
            group["groupName"]: group["replicas"]
            for group in table["spec"]["workerGroupSpecs"]
            if group["groupName"] != "driver"
        }
        assert pods_of_plan(each, table) == rendered
    assert pods_of_plan(twice(plan), cluster(plan, options)) == {
        name: 2 * count for name, count in pods_of_plan(plan, cluster(plan, options)).items()
    }


@pytest.mark.parametrize(
    "needs",
    [
        {"memory_bytes": 64 * GIB},
        {"threads": 32},
        {"kind": "A100"},
        {"resources": (("fast_link", 1.0),)},
        {"labels": (("zone", "b"),)},
    ],
)
def test_a_gang_that_no_group_has_pods_for_is_refused(needs: dict[str, Any]) -> None:
    plan = two_stages()
    for member in range(2):
        plan = asking(plan, 1, member, **needs)
    with pytest.raises(ConfigError, match="no group of the cluster has pods for stage 1"):
        pods_of_plan(plan, cluster(two_stages()))


def test_labels_and_resources_of_a_group_are_found_by_those_who_ask_for_them() -> None:
    plan = asking(two_stages(), 1, 1, labels=(("zone", "b"),), resources=(("fast_link", 1.0),))
    assert pods_of_plan(plan, cluster(plan)) == {"cpu-0": 1, "cpu-1": 1}
