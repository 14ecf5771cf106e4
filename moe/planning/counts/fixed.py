"""Bytes that a rank takes beside its tensors: its process, or what a GPU holds for it.

On a CPU everything is in one memory, and the process is measured: interpreter, torch and Ray take
0.35 GB, the rest is buffers. oneDNN keeps the code of up to 1,024 products, one for each shape, and
experts get another number of tokens in every micro-batch: 0.4 GB more after a few steps, measured
on SmolLM2-135M with four experts.

On a GPU the process is on the host. No GPU was at hand for these figures; they are what drivers and
libraries are documented or reported to take:

    context          CUDA and the code of kernels, for every process
    workspaces       cuBLAS and cuBLASLt, 32 MiB each on Hopper
    communicators    NCCL's buffers: those of a group, and of a line to or from a neighbour
    gradient         of all experts of one layer, before it is added to that of the step

Reports of contexts are of kernels that are loaded at their first launch. Ranks load all of them at
the start (``actors.epochs.environment``), which takes more; how much, ``benchmarks.gpu_check`` will
show, which compares the memory of a card with the prediction.
"""

from math import ceil

from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.planning.counts.copies import all_copies
from moe.planning.counts.work import Parameters, whole_states
from moe.planning.counts.workload import Workload

PROCESS_BYTES = 512 * 2**20
"""Bytes of an actor beside its tensors, where it computes on a CPU."""

PRODUCTS_BYTES = 384 * 2**20
"""Bytes of the products that oneDNN has prepared, in training with experts on a CPU."""

CONTEXT_BYTES = 512 * 2**20
WORKSPACE_BYTES = 64 * 2**20
GROUP_BYTES = 128 * 2**20
PAIR_BYTES = 32 * 2**20

HOST_PROCESS_BYTES = 2 * 2**30
"""Bytes of the host for an actor on a GPU: as on a CPU, and what CUDA's libraries map."""


def least_fixed_bytes(workload: Workload) -> int:
    """Return what any rank takes beside its tensors, whatever its share."""
    return CONTEXT_BYTES + WORKSPACE_BYTES if workload.gpus else PROCESS_BYTES


def fixed_bytes(
    config: ModelConfig,
    share: Share,
    neighbours: int,
    workload: Workload,
    replicas: int,
) -> int:
    """Return what a rank takes beside its tensors on its device.

    ``neighbours`` are the stages that it exchanges with, those before and those after.
    """
    least = least_fixed_bytes(workload)
    if not workload.gpus:
        return least + (PRODUCTS_BYTES if workload.training and config.placed_experts else 0)
    lines = neighbours * (2 if workload.training else 1)
    communicating = communicator_bytes(config, share, lines, replicas)
    return least + communicating + expert_gradient_bytes(config, share, workload)


def communicator_bytes(config: ModelConfig, share: Share, lines: int, replicas: int) -> int:
    """Return the bytes of NCCL for all groups of a rank.

    These are the gang, the replicas and, if there is any other rank, all ranks; and each line to or
    from a neighbour, which has one for each way: hidden states and, in training, gradients.
    """
    gang = share.kv_heads != (0, config.kv_heads)
    groups = gang + (replicas > 1)
    several = bool(groups or lines)
    return (groups + several) * GROUP_BYTES + lines * PAIR_BYTES


def expert_gradient_bytes(config: ModelConfig, share: Share, workload: Workload) -> int:
    """Return the bytes of a new gradient of the experts of one layer, in the products' format."""
    tuning = config.tuning
    if config.moe is None or not workload.training or (tuning and tuning.lora):
        return 0
    numbers = 3 * config.hidden_size * config.moe.expert_size * len(share.experts)
    return workload.numerics.activation * numbers


def host_bytes(parameters: Parameters, workload: Workload, replicas: int) -> int:
    """Return the bytes that a rank on a GPU takes of its host: its process, its snapshots and its
    copies.

    One replica writes each weight and each moment, so a snapshot is spread over the replicas.
    """
    if not workload.gpus:
        return 0
    states = sum(whole_states(parameters.changing, workload)) if workload.training else 0
    copies = all_copies(parameters, workload, replicas)
    return HOST_PROCESS_BYTES + ceil(states / replicas) + copies
