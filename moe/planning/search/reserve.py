"""The memory that ranks of a plan reserve on their nodes: what they are predicted to need."""

from dataclasses import replace

from moe.config.model import ModelConfig
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import CPU
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import rank_bytes_of


def reserving(config: ModelConfig, plan: Plan, workload: Workload) -> Plan:
    """Return the plan with the predicted memory of each rank on its node reserved.

    Of a rank on a GPU that is its process and its snapshots; the GPU's memory comes with the GPU.
    """
    needed = iter(rank_bytes_of(config, plan, workload))
    stages = []
    for stage in plan.stages:
        ranks = (
            replace(rank, memory_bytes=need.total if rank.kind == CPU else need.host)
            for rank, need in zip(stage.ranks, needed, strict=False)
        )
        stages.append(replace(stage, ranks=tuple(ranks)))
    return replace(plan, stages=tuple(stages))
