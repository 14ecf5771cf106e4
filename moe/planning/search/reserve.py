"""The memory that ranks of a plan reserve on their nodes: what they are predicted to need."""

from dataclasses import replace
from functools import reduce

from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.planning.counts.fixed import host_bytes
from moe.planning.counts.work import Parameters, end_parameters, layer_parameters
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import CPU
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import bytes_per_rank


def reserving(config: ModelConfig, plan: Plan, workload: Workload) -> Plan:
    """Return the plan with the predicted memory of each rank on its node reserved.

    Of a rank on a GPU that is its process and its snapshots; the GPU's memory comes with the GPU.
    """
    if any(rank.kind == CPU for stage in plan.stages for rank in stage.ranks):
        needed = iter(bytes_per_rank(config, plan, workload))
    elif workload.gpus:
        shares = map(plan.share, plan.seats.of_replica(0))
        counts = (_parameters(config, share) for share in shares)
        needed = iter([host_bytes(count, workload, plan.replicas) for count in counts])
    else:
        return plan
    stages = []
    for stage in plan.stages:
        ranks = (
            replace(rank, memory_bytes=size)
            for rank, size in zip(stage.ranks, needed, strict=False)
        )
        stages.append(replace(stage, ranks=tuple(ranks)))
    return replace(plan, stages=tuple(stages))


def _parameters(config: ModelConfig, share: Share) -> Parameters:
    """Return the parameters of a share, from counts that equal layers share."""
    blocks = (layer_parameters(config, share, layer) for layer in share.layer_numbers)
    ends = end_parameters(config, share, share.embedding, share.head)
    return reduce(Parameters.plus, blocks, ends)
