"""The worker groups of a Ray cluster as they are: how many pods each asks for, which are there.

A size is written to the RayCluster itself: KubeRay reads the RayJob once, when it starts, and takes
over what changes of its cluster.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.kube.observed import Observed, role_of
from cluster.kube.standing import is_ready

Table = dict[str, Any]

GROUP_LABEL = "ray.io/group"
"""KubeRay's label of a pod: the group that it belongs to."""


@dataclass(frozen=True, slots=True)
class Size:
    """How many pods a group is to have, from ``least`` to ``most``, and those that are to go."""

    most: int
    least: int
    leaving: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupSeen:
    """A group of pods with ranks: its size, its pods, those that run, and those that have ranks.

    ``floating``: an autoscaler chooses the number between ``least`` and ``most``.
    """

    name: str
    size: Size
    floating: bool = False
    pods: frozenset[str] = frozenset()
    ready: frozenset[str] = frozenset()
    busy: frozenset[str] = frozenset()

    @property
    def idle(self) -> list[str]:
        """The pods without ranks; those that do not even run come first."""
        return sorted(self.pods - self.busy, key=lambda name: (name in self.ready, name))

    def sized(self, most: int, least: int | None = None, leaving: Iterable[str] = ()) -> Size:
        """Return another size of it; where nobody floats, it has as many as it may have."""
        return Size(most, most if least is None or not self.floating else least, tuple(leaving))


def groups_seen(observed: Observed, busy: Collection[str]) -> tuple[GroupSeen, ...]:
    """Return the groups of pods for ranks; ``busy`` are the addresses of those that have some."""
    spec = (observed.cluster or {}).get("spec") or {}
    floating = bool(spec.get("enableInTreeAutoscaling"))
    return tuple(
        _seen(group, observed.of_role("rank"), floating, busy)
        for group in spec.get("workerGroupSpecs") or ()
        if role_of(group["template"]) == "rank"
    )


def _seen(group: Table, pods: Iterable[Table], floating: bool, busy: Collection[str]) -> GroupSeen:
    name = group["groupName"]
    own = [pod for pod in pods if pod["metadata"]["labels"].get(GROUP_LABEL) == name]
    there = [pod for pod in own if not pod["metadata"].get("deletionTimestamp")]
    most, least = int(group["maxReplicas"]), int(group.get("minReplicas") or 0)
    if not floating:
        most = least = min(int(group.get("replicas") or 0), most)
    leaving = (group.get("scaleStrategy") or {}).get("workersToDelete") or ()
    return GroupSeen(
        name,
        Size(most, least, tuple(leaving)),
        floating,
        pods=_names(own),
        ready=_names(pod for pod in there if is_ready(pod)),
        busy=_names(pod for pod in own if (pod.get("status") or {}).get("podIP") in busy),
    )


def _names(pods: Iterable[Table]) -> frozenset[str]:
    return frozenset(str(pod["metadata"]["name"]) for pod in pods)


def patch_of(cluster: Table, sizes: Mapping[str, Size], floating: bool) -> list[Table]:
    """Return the JSON patch that gives groups their sizes, if the groups are still as they were.

    The number of pods of a group that floats is the autoscaler's.
    """
    changes: list[Table] = []
    for number, group in enumerate(cluster["spec"]["workerGroupSpecs"]):
        if (size := sizes.get(group["groupName"])) is None:
            continue
        path = f"/spec/workerGroupSpecs/{number}"
        changes.append({"op": "test", "path": f"{path}/groupName", "value": group["groupName"]})
        members: Table = {"minReplicas": size.least, "maxReplicas": size.most}
        if not floating:
            members |= {"replicas": size.most}
            members |= {"scaleStrategy": {"workersToDelete": list(size.leaving)}}
        changes += [
            {"op": "add", "path": f"{path}/{key}", "value": value} for key, value in members.items()
        ]
    return changes
