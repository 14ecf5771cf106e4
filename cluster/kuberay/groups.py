"""Ranks that need the same pod, together: the worker groups of a plan."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.kuberay.options import GIB, KubeOptions
from moe.errors import PlanError
from moe.planning.devices.inventory import CPU
from moe.planning.plan import Plan

OBJECT_STORE_BYTES = GIB // 4
"""Object store of a rank's pod. Tensors never pass through it, so Ray's 30 % would be waste."""

PROCESS_BYTES = 2 * GIB
"""What a pod needs beside the tensors of its rank: Ray's agents, Python, torch, buffers."""


@dataclass(frozen=True, slots=True)
class Group:
    """Pods of one size; ``kind`` is the kind of device that each holds one of."""

    name: str
    role: str
    kind: str
    cpus: int
    memory_bytes: int
    pods: int

    @property
    def has_gpu(self) -> bool:
        """Whether each pod takes a GPU."""
        return self.kind != CPU


def rank_groups(plan: Plan, bytes_per_rank: Sequence[int], options: KubeOptions) -> list[Group]:
    """Return a group per kind of rank, one pod a rank, in the order of their first ranks.

    ``bytes_per_rank`` is what the tensors of each rank take; pods are sized in whole GiB above it,
    so ranks that differ by little share a group.
    """
    _check(plan, bytes_per_rank, options)
    ranks = [plan.rank(number) for number in range(plan.ranks)]
    needs = Counter(
        (rank.kind, rank.threads, _pod_bytes(size))
        for rank, size in zip(ranks, bytes_per_rank, strict=True)
    )
    return [
        Group(f"{'cpu' if kind == CPU else 'gpu'}-{number}", "rank", kind, threads, memory, pods)
        for number, ((kind, threads, memory), pods) in enumerate(needs.items())
    ]


def driver_group(options: KubeOptions) -> Group:
    """Return the group of one pod that drives the ranks and holds no tensors."""
    return Group("driver", "driver", CPU, options.driver_cpus, options.driver_memory_bytes, 1)


def quantity(memory_bytes: int) -> str:
    """Return bytes as Kubernetes writes them, rounded up to Mi, or as Gi where that is exact."""
    mebibytes = -(-memory_bytes // 2**20)
    return f"{mebibytes // 1024}Gi" if mebibytes % 1024 == 0 else f"{mebibytes}Mi"


def _pod_bytes(tensor_bytes: int) -> int:
    return -(-(tensor_bytes + PROCESS_BYTES + OBJECT_STORE_BYTES) // GIB) * GIB


def _check(plan: Plan, bytes_per_rank: Sequence[int], options: KubeOptions) -> None:
    if len(bytes_per_rank) != plan.ranks:
        raise PlanError(
            f"the plan has {plan.ranks} ranks but memory was given for {len(bytes_per_rank)}; "
            "give the bytes of every rank, in order"
        )
    for rank, size in enumerate(bytes_per_rank):
        if size <= 0:
            raise PlanError(f"rank {rank} was given {size} bytes; give what its tensors take")
    used = {plan.rank(number).kind for number in range(plan.ranks)}
    if unused := sorted(options.node_selectors.keys() - used):
        raise PlanError(
            f"node selectors are given for {', '.join(unused)} but the plan's devices are of kind "
            f"{', '.join(sorted(used))}; name kinds that the plan uses"
        )
