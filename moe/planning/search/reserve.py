"""The memory that ranks of a plan reserve on their nodes: what they are predicted to need."""

from dataclasses import replace

from moe.config.model import ModelConfig
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import CPU
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import bytes_per_rank


def reserving(config: ModelConfig, plan: Plan, workload: Workload) -> Plan:
    """Return the plan with the predicted memory of each rank on a CPU reserved.

    What a rank on a GPU needs is the GPU's own memory, which comes with the GPU.
    """
    if all(rank.kind != CPU for stage in plan.stages for rank in stage.ranks):
        return plan
    needed = iter(bytes_per_rank(config, plan, workload))
    stages = []
    for stage in plan.stages:
        ranks = (
            replace(rank, memory_bytes=size if rank.kind == CPU else 0)
            for rank, size in zip(stage.ranks, needed, strict=False)
        )
        stages.append(replace(stage, ranks=tuple(ranks)))
    return replace(plan, stages=tuple(stages))
