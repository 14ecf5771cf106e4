"""The worker groups of a plan: gangs that need equal pods, together.

For Ray a pod is a node, and all ranks of a gang are on one node, so one pod holds one gang.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from cluster.kuberay.deployment import Deployment
from cluster.kuberay.deployment.sizes import GIB
from moe.errors import PlanError
from moe.planning.devices.inventory import CPU
from moe.planning.devices.labels import Selector, selector
from moe.planning.devices.needs import Labels
from moe.planning.plan.plan import Plan, RankPlan

OBJECT_STORE_BYTES = GIB // 4
"""Bytes of the object store in a gang's pod. Tensors never pass through the store, so Ray's
default, 30 % of the memory, would be wasted.
"""

PROCESS_BYTES = 2 * GIB
"""Bytes that a pod needs beyond the prediction for its ranks: Ray's agents, and a reserve."""

MARGIN = 0.05
"""How far a rank may exceed its prediction, as a fraction; Kubernetes kills a pod at its limit."""

_NODE_ID = "ray.io/node-id"


@dataclass(frozen=True, slots=True)
class Group:
    """Pods of one size; each has ``gpus`` GPUs of one ``kind``.

    ``resources`` and ``labels`` are the custom resources and labels of the Ray nodes.
    """

    name: str
    role: str
    kind: str
    cpus: int
    memory_bytes: int
    pods: int
    gpus: int = 0
    resources: tuple[tuple[str, int], ...] = ()
    labels: Labels = ()


def gang_groups(plan: Plan, bytes_per_rank: Sequence[int], deployment: Deployment) -> list[Group]:
    """Return one group per kind of gang, with one pod per gang, in the order of the stages.

    ``bytes_per_rank`` has the bytes of each rank of a replica. Pod sizes are rounded up to whole
    GiB, so gangs that differ a little share a group.
    """
    _check(plan, bytes_per_rank, deployment)
    needs: Counter[Group] = Counter()
    for number, stage in enumerate(plan.stages):
        sizes = [bytes_per_rank[plan.seats.rank(seat)] for seat in plan.seats.of_stage(number)]
        needs[_pod(number, stage.ranks, sizes)] += plan.replicas
    return [
        replace(need, name=f"{'gpu' if need.gpus else 'cpu'}-{number}", pods=pods)
        for number, (need, pods) in enumerate(needs.items())
    ]


def driver_group(deployment: Deployment) -> Group:
    """Return the group of one pod that drives the ranks and holds no tensors."""
    driver = deployment.driver
    return Group("driver", "driver", CPU, driver.cpus, driver.memory_bytes, 1)


def quantity(memory_bytes: int) -> str:
    """Return bytes in Kubernetes form: in Gi if that is exact, else rounded up to Mi."""
    mebibytes = -(-memory_bytes // 2**20)
    return f"{mebibytes // 1024}Gi" if mebibytes % 1024 == 0 else f"{mebibytes}Mi"


def _pod(stage: int, ranks: Sequence[RankPlan], sizes: Sequence[int]) -> Group:
    """Return the pod of a gang, without a name."""
    kinds = sorted({rank.kind for rank in ranks})
    if len(kinds) > 1:
        raise PlanError(
            f"the gang of stage {stage} has devices of kinds {', '.join(kinds)}, but a gang runs "
            "in one pod, whose GPUs are of one kind; give every gang devices of one kind"
        )
    needed = sum(max(size, rank.memory_bytes) for size, rank in zip(sizes, ranks, strict=True))
    needed += ceil(MARGIN * needed)
    custom: Counter[str] = Counter()
    for rank in ranks:
        custom.update(dict(rank.resources))
    return Group(
        name="",
        role="rank",
        kind=kinds[0],
        cpus=sum(rank.threads for rank in ranks),
        memory_bytes=ceil((needed + PROCESS_BYTES + OBJECT_STORE_BYTES) / GIB) * GIB,
        pods=0,
        gpus=0 if kinds[0] == CPU else len(ranks),
        resources=tuple((name, ceil(amount)) for name, amount in custom.items()),
        labels=tuple(_labels(stage, ranks)),
    )


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


def _check(plan: Plan, bytes_per_rank: Sequence[int], deployment: Deployment) -> None:
    if len(bytes_per_rank) != plan.ranks:
        raise PlanError(
            f"the plan has {plan.ranks} ranks but memory was given for {len(bytes_per_rank)}; "
            "give the bytes of every rank, in order"
        )
    for rank, size in enumerate(bytes_per_rank):
        if size <= 0:
            raise PlanError(f"rank {rank} was given {size} bytes; give the size of its tensors")
    selected = deployment.workers.node_selectors
    used = {rank.kind for stage in plan.stages for rank in stage.ranks}
    if selected and (without := sorted(used - selected.keys())):
        raise PlanError(
            f"the plan has devices of kind {', '.join(without)} but workers.node_selectors has "
            f"only {', '.join(sorted(selected))}; add the kind, with an empty table for any node"
        )
