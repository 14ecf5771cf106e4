"""How many pods each group has once a wish is met: by replicas, by nodes, or by a plan."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.kube.quantities import amount
from cluster.kube.worker_groups import GroupSeen
from cluster.kuberay.groups import Group, gang_pod
from cluster.kuberay.pods import KIND_LABEL, RANKS_ANNOTATION, label_value
from moe.errors import ClusterError, ConfigError
from moe.planning.devices.inventory import CPU
from moe.planning.plan.plan import Plan

Table = Mapping[str, Any]


def pods_of_replicas(
    groups: Iterable[GroupSeen], replicas: int, gangs: int, wished: int
) -> dict[str, int]:
    """Return the pods of each group for ``wished`` replicas, each with the pods that one has now.

    ``replicas`` of ``gangs`` pods each should be there. ClusterError where they are not, or where
    replicas differ.
    """
    used = {group.name: len(group.busy) for group in groups}
    if sum(used.values()) != replicas * gangs:
        raise ClusterError(
            f"{sum(used.values())} pods have ranks of the run's {replicas * gangs} gangs: one is "
            "being replaced, or ranks share an address; wait until the run is whole, and ask again"
        )
    if uneven := [name for name, count in used.items() if count % replicas]:
        raise ClusterError(
            f"the {replicas} replicas of the run have unlike pods of {', '.join(uneven)}; say by "
            "--plan what each replica is to have"
        )
    return {name: count // replicas * wished for name, count in used.items()}


def pods_of_nodes(groups: Iterable[GroupSeen], wished: int) -> dict[str, int]:
    """Return the pods of the one group whose pods have ranks; ConfigError where there are more."""
    used = [group.name for group in groups if group.busy]
    if len(used) != 1:
        raise ConfigError(
            f"--nodes is for a run in one group of pods, but {len(used)} groups "
            f"({', '.join(used) or 'none'}) have ranks; give --plan or --replicas"
        )
    return {used[0]: wished}


def pods_of_plan(plan: Plan, cluster: Table) -> dict[str, int]:
    """Return the pods of each group under a plan: a gang goes to the smallest pod that takes it.

    ConfigError for a gang that no group has a pod for.
    """
    offers = [_offer(group) for group in cluster["spec"]["workerGroupSpecs"] if _for_ranks(group)]
    counts = Counter({offer.name: 0 for offer in offers})
    for number, stage in enumerate(plan.stages):
        pod = gang_pod(number, stage.ranks, [0] * len(stage.ranks), spares=0)
        able = [offer for offer in offers if offer.takes(pod)]
        if not able:
            raise ConfigError(
                f"no group of the cluster has pods for stage {number} of the plan: {pod.ranks} "
                f"ranks on {pod.kind}, {pod.cpus} CPUs, {pod.memory_bytes / 2**30:.0f} GiB, with "
                "their labels and resources; render the run with this plan, delete it and apply "
                "it: it continues from its last checkpoint"
            )
        counts[min(able, key=lambda offer: offer.memory_bytes).name] += plan.replicas
    return dict(counts)


@dataclass(frozen=True, slots=True)
class _Offer:
    """What a pod of a group has, as its template says."""

    name: str
    kind: str
    ranks: int
    cpus: int
    memory_bytes: int
    resources: Table
    labels: Table

    def takes(self, pod: Group) -> bool:
        """Return whether a pod of this group can be a pod as large as that."""
        of_gpus = pod.kind != CPU
        return (
            self.kind == label_value(pod.kind)
            and (not of_gpus or pod.ranks <= self.ranks)
            and pod.cpus <= self.cpus
            and pod.memory_bytes <= self.memory_bytes
            and all(int(self.resources.get(name, 0)) >= count for name, count in pod.resources)
            and all(self.labels.get(key) == value for key, value in pod.labels)
        )


def _for_ranks(group: Table) -> bool:
    return RANKS_ANNOTATION in (group["template"]["metadata"].get("annotations") or {})


def _offer(group: Table) -> _Offer:
    template = group["template"]
    limits = template["spec"]["containers"][0]["resources"]["limits"]
    labels = group.get("labels") or {}
    return _Offer(
        group["groupName"],
        str(labels.get(KIND_LABEL)),
        int(template["metadata"]["annotations"][RANKS_ANNOTATION]),
        int(amount(limits["cpu"])),
        int(amount(limits["memory"])),
        group.get("resources") or {},
        labels,
    )
