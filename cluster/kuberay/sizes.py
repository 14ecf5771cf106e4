"""How large a pod of ranks is: what its ranks ask for, and all that runs beside them.

Memory of the host; that of a GPU comes with the GPU. A rank on a GPU asks its host for its process,
for the snapshot of a checkpoint and for copies of ranks (``moe.planning.counts.fixed``); a rank on
a CPU for all that it holds. Beside the ranks a pod has, and its limit counts:

    agents      Ray's raylet and its two agents: 0.14 GB measured
    files       pages of files that are read or written; the kernel drops them when memory is short,
                and a loader that has none left waits for the disk at every page
    reserve     what no prediction names
    spares      warm processes, 312 MB resident each (decision 35)
    shared      /dev/shm: Ray's object store, and for GPUs what NCCL exchanges within a node (NVIDIA
                asks for 1 GB for a container of some GPUs)

No figure for GPUs was measured on one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from cluster.kuberay.deployment.sizes import GIB
from moe.planning.devices.inventory import CPU
from moe.planning.plan.plan import RankPlan

MIB = 2**20

AGENTS_BYTES = 256 * MIB
FILES_BYTES = GIB
RESERVE_BYTES = 768 * MIB
SPARE_BYTES = 320 * MIB

OBJECT_STORE_BYTES = 256 * MIB
"""Bytes of the object store in a pod of ranks. Tensors never pass through the store, so Ray's
default, 30 % of the memory, would be wasted.
"""

SHARED_BYTES = 64 * MIB
"""Room in /dev/shm beside the object store, for any rank."""
NCCL_SHARED_BYTES = 256 * MIB
"""Room in /dev/shm for each rank on a GPU."""

DRIVER_BYTES = 448 * MIB
"""Ray Train's worker, which drives all replicas of a run: 412 MB resident measured."""
SERVER_BYTES = 640 * MIB
"""A replica of Ray Serve, with its tokenizer and its queue, 497 MB resident measured; the front of
several replicas imports the same.
"""
PROXY_BYTES = 256 * MIB
"""Ray Serve's proxy, 216 MB resident measured."""

MARGIN = 0.05
"""How far a rank may exceed its prediction, as a fraction; Kubernetes kills a pod at its limit."""

GPU_RANK_CPUS = 2
"""CPUs of a rank on a GPU at least: one thread launches kernels, others run the backward pass, send
messages and write checkpoints."""


@dataclass(frozen=True, slots=True)
class Size:
    """CPUs, bytes of memory, and the part of these that /dev/shm may take."""

    cpus: int
    memory_bytes: int
    shared_bytes: int


def size_of(ranks: Sequence[RankPlan], rank_bytes: Sequence[int], spares: int) -> Size:
    """Return the size of the pod of one gang; memory in whole GiB.

    A rank that its plan reserves more memory for gets that.
    """
    asked = sum(max(size, rank.memory_bytes) for size, rank in zip(rank_bytes, ranks, strict=True))
    shared = OBJECT_STORE_BYTES + sum(_shared(rank) for rank in ranks)
    beside = AGENTS_BYTES + FILES_BYTES + RESERVE_BYTES + spares * SPARE_BYTES + shared
    memory = asked + ceil(MARGIN * asked) + beside
    return Size(sum(_cpus(rank) for rank in ranks), ceil(memory / GIB) * GIB, shared)


def driver_size(servers: int | None) -> Size:
    """Return the size of the driver pod: of a run, or of so many replicas of Ray Serve.

    One process drives all replicas of a run. Each replica of a server has its own, with a CPU to
    turn texts into tokens; several have a front.
    """
    processes, cpus = DRIVER_BYTES, 1
    if servers is not None:
        cpus = servers + (1 if servers > 1 else 0)
        processes = PROXY_BYTES + cpus * SERVER_BYTES
    shared = OBJECT_STORE_BYTES + SHARED_BYTES
    memory = AGENTS_BYTES + FILES_BYTES + RESERVE_BYTES + shared + processes
    return Size(cpus, ceil(memory / GIB) * GIB, shared)


def _cpus(rank: RankPlan) -> int:
    return rank.threads if rank.kind == CPU else max(rank.threads, GPU_RANK_CPUS)


def _shared(rank: RankPlan) -> int:
    return SHARED_BYTES + (0 if rank.kind == CPU else NCCL_SHARED_BYTES)
