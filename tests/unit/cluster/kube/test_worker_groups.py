"""Groups of pods as they are seen, and the patch that gives them other sizes."""

from typing import Any

import jsonpatch
import pytest

from cluster.kube.observed import Observed
from cluster.kube.worker_groups import GroupSeen, Size, groups_seen, patch_of
from tests.kube.tables import job, pod
from tests.manifests.samples import GPU_KINDS, GPU_TABLE, cluster, deployment, two_stages
from tests.manifests.schema import faults

Table = dict[str, Any]


def made(autoscale: bool = False) -> Table:
    """Return a RayCluster of two groups of one pod each."""
    return cluster(two_stages(GPU_KINDS), deployment(GPU_TABLE, workers={"autoscale": autoscale}))


def of_group(name: str, group: str, address: str, **more: Any) -> Table:
    table = pod(name, "rank", podIP=address, **more)
    table["metadata"]["labels"]["ray.io/group"] = group
    return table


def seen(table: Table, *pods: Table, busy: tuple[str, ...] = ()) -> dict[str, GroupSeen]:
    observed = Observed("RayJob", "demo", job(), table, pods)
    return {group.name: group for group in groups_seen(observed, busy)}


def test_groups_of_ranks_are_seen_with_their_pods_and_their_ranks() -> None:
    going = of_group("c", "gpu-0", "10.0.0.3")
    going["metadata"]["deletionTimestamp"] = "2026-11-30T12:00:00Z"
    found = seen(
        made(),
        of_group("a", "gpu-0", "10.0.0.1"),
        of_group("b", "gpu-1", "10.0.0.2", ready=False),
        going,
        pod("driver", "driver"),
        busy=("10.0.0.1", "10.0.0.9"),
    )
    assert list(found) == ["gpu-0", "gpu-1"]
    first = found["gpu-0"]
    assert (first.pods, first.ready, first.busy) == ({"a", "c"}, {"a"}, {"a"})
    assert (first.size, first.floating, first.idle) == (Size(1, 1), False, ["c"])
    assert (found["gpu-1"].ready, found["gpu-1"].idle) == (set(), ["b"])


def test_the_size_of_a_group_that_an_autoscaler_has_is_what_it_may_be() -> None:
    found = seen(made(autoscale=True))["gpu-0"]
    assert (found.size, found.floating) == (Size(1, 0), True)


@pytest.mark.parametrize("autoscale", [False, True])
def test_a_patch_changes_the_sizes_of_its_groups_and_nothing_else(autoscale: bool) -> None:
    table = made(autoscale)
    changed = jsonpatch.apply_patch(
        table, patch_of(table, {"gpu-1": Size(3, 2, ("x",))}, autoscale)
    )
    assert faults(changed) == []
    driver, first, second = changed["spec"]["workerGroupSpecs"]
    assert [driver, first] == table["spec"]["workerGroupSpecs"][:2]
    assert (second["minReplicas"], second["maxReplicas"]) == (2, 3)
    if autoscale:  # the number of pods is the autoscaler's, and so is which of them go
        assert "replicas" not in second
        assert second["scaleStrategy"] == {"workersToDelete": []}
    else:
        assert second["replicas"] == 3
        assert second["scaleStrategy"] == {"workersToDelete": ["x"]}


def test_a_patch_of_a_cluster_whose_groups_have_changed_is_refused() -> None:
    table = made()
    patch = patch_of(table, {"gpu-0": Size(3, 3)}, floating=False)
    del table["spec"]["workerGroupSpecs"][0]
    with pytest.raises((jsonpatch.JsonPatchException, jsonpatch.JsonPointerException)):
        jsonpatch.apply_patch(table, patch)


def test_a_patch_that_comes_twice_has_the_effect_of_one() -> None:
    table = made()
    patch = patch_of(table, {"gpu-0": Size(3, 3)}, floating=False)
    once = jsonpatch.apply_patch(table, patch)
    assert jsonpatch.apply_patch(once, patch) == once
