"""The worker groups of a plan: gangs that equal pods can hold, together.

For Ray a pod is a node, and all ranks of a gang are on one node, so one pod holds one gang. Gangs
on GPUs of one kind share a group, whose pods are as large as the largest needs: memory of the host
is what such a node has anyway, and a pod that comes back can take the place of any other. Gangs on
CPUs share one where that asks for little more memory than they need.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from cluster.kuberay.deployment import Deployment
from cluster.kuberay.deployment.sizes import GIB
from cluster.kuberay.sizes import driver_size, size_of
from cluster.kuberay.work import Work
from moe.errors import PlanError
from moe.planning.devices.inventory import CPU
from moe.planning.devices.kinds import ray_word
from moe.planning.devices.labels import Selector, selector
from moe.planning.devices.needs import Labels
from moe.planning.plan.plan import RankPlan

WASTE = 0.25
"""How much more memory than they need gangs on CPUs may ask for to share a group."""

ACCELERATOR = "accelerator_type:"
"""Ray's resource of a node with GPUs of a kind. Ray's nodes have it by themselves; the autoscaler
knows it only from the group."""

_NODE_ID = "ray.io/node-id"


@dataclass(frozen=True, slots=True)
class Group:
    """Pods of one size; each holds ``ranks`` ranks and has ``gpus`` GPUs of one ``kind``.

    ``resources`` and ``labels`` are the custom resources and labels of the Ray nodes. /dev/shm may
    take ``shared_bytes`` of the memory; 0 leaves it to KubeRay. A replica has ``of_replica`` of the
    pods.
    """

    name: str
    role: str
    kind: str
    cpus: int
    memory_bytes: int
    pods: int
    ranks: int = 0
    gpus: int = 0
    resources: tuple[tuple[str, int], ...] = ()
    labels: Labels = ()
    shared_bytes: int = 0
    of_replica: int = 1


def gang_groups(work: Work, deployment: Deployment) -> list[Group]:
    """Return the groups of all gangs, one pod for each gang, in the order of the stages."""
    plan = work.plan
    _check_selectors({rank.kind for stage in plan.stages for rank in stage.ranks}, deployment)
    alike: dict[Group, list[Group]] = defaultdict(list)
    for number, stage in enumerate(plan.stages):
        sizes = [work.rank_bytes[plan.seats.rank(seat)] for seat in plan.seats.of_stage(number)]
        pod = gang_pod(number, stage.ranks, sizes, work.spares)
        alike[_without_size(pod)].append(pod)
    groups = [group for pods in alike.values() for group in _shared(pods)]
    return [
        replace(
            group,
            name=f"{'gpu' if group.gpus else 'cpu'}-{number}",
            pods=group.of_replica * work.replicas,
        )
        for number, group in enumerate(groups)
    ]


def driver_group(work: Work, deployment: Deployment) -> Group:
    """Return the group of one pod that drives the ranks and holds no tensors.

    It is as large as what is in it needs, unless the deployment file says how large it is.
    """
    driver, size = deployment.driver, driver_size(work.servers)
    memory = size.memory_bytes if driver.memory_gib is None else driver.memory_gib * GIB
    cpus = size.cpus if driver.cpus is None else driver.cpus
    return Group("driver", "driver", CPU, cpus, memory, 1, shared_bytes=size.shared_bytes)


def gang_pod(stage: int, ranks: Sequence[RankPlan], sizes: Sequence[int], spares: int) -> Group:
    """Return the pod of the gang of a stage, without a name.

    ``sizes`` are what its ranks ask of the host, in bytes, where that is more than they reserve.
    """
    kinds = sorted({rank.kind for rank in ranks})
    if len(kinds) > 1:
        raise PlanError(
            f"the gang of stage {stage} has devices of kinds {', '.join(kinds)}, but a gang runs "
            "in one pod, whose GPUs are of one kind; give every gang devices of one kind"
        )
    size = size_of(ranks, sizes, spares)
    return Group(
        name="",
        role="rank",
        kind=kinds[0],
        cpus=size.cpus,
        memory_bytes=size.memory_bytes,
        pods=0,
        ranks=len(ranks),
        gpus=0 if kinds[0] == CPU else len(ranks),
        resources=tuple(_resources(ranks).items()),
        labels=tuple(_labels(stage, ranks)),
        shared_bytes=size.shared_bytes,
    )


def _shared(pods: Sequence[Group]) -> Iterator[Group]:
    """Yield the groups of pods that differ in size alone."""
    largest = replace(
        pods[0],
        cpus=max(pod.cpus for pod in pods),
        memory_bytes=max(pod.memory_bytes for pod in pods),
        of_replica=len(pods),
    )
    needed = sum(pod.memory_bytes for pod in pods)
    if largest.gpus or largest.memory_bytes * len(pods) <= (1 + WASTE) * needed:
        yield largest
        return
    for pod, count in Counter(pods).items():
        yield replace(pod, of_replica=count)


def _without_size(pod: Group) -> Group:
    """Return what pods of one group have in common; on CPUs, the number of CPUs too."""
    return replace(pod, memory_bytes=0, cpus=0 if pod.gpus else pod.cpus)


def _resources(ranks: Sequence[RankPlan]) -> Mapping[str, int]:
    """Return the custom resources of all ranks, and the words by which they find their GPUs."""
    custom: Counter[str] = Counter()
    for rank in ranks:
        custom.update(dict(rank.resources))
    words = {rank.accelerator or ray_word(rank.kind) for rank in ranks if rank.kind != CPU}
    marks = {f"{ACCELERATOR}{word}": 1 for word in sorted(words)}
    return {name: ceil(amount) for name, amount in custom.items()} | marks


def _labels(stage: int, ranks: Sequence[RankPlan]) -> Iterator[tuple[str, str]]:
    """Yield the labels that all ranks of a gang select by value."""
    asked: dict[str, list[Selector]] = defaultdict(list)
    for rank in ranks:
        for key, text in rank.labels:
            asked[key].append(selector(text))
    for key, selectors in asked.items():
        named = [value for each in selectors if not each.none_of for value in each.values]
        good = [value for value in named if all(each.takes(value) for each in selectors)]
        if key == _NODE_ID or (named and not good):
            raise PlanError(
                f"the ranks of stage {stage} select {key} so that no pod can have it; leave it "
                "out of their labels, or let all ranks of a gang select one value"
            )
        if good:
            yield key, good[0]


def _check_selectors(kinds: set[str], deployment: Deployment) -> None:
    selected = deployment.workers.node_selectors
    if selected and (without := sorted(kinds - selected.keys())):
        raise PlanError(
            f"the plan has devices of kind {', '.join(without)} but workers.node_selectors has "
            f"only {', '.join(sorted(selected))}; add the kind, with an empty table for any node"
        )
