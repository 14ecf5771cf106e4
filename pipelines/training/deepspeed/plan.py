"""The plan of a run with DeepSpeed, as journal, metrics and checkpoints know plans."""

from dataclasses import replace

from moe.config.model import ModelConfig
from moe.config.run import PlanSection
from moe.planning.plan.plan import Plan
from moe.surgery.one_rank import one_rank


def plan_of_workers(config: ModelConfig, asked: PlanSection) -> Plan:
    """Return a plan of one rank that holds everything, in as many replicas as there are workers."""
    names = tuple(f"worker {number}" for number in range(asked.replicas))
    whole = one_rank(config, names[0])
    (stage,) = whole.stages
    rank = replace(stage.ranks[0], devices=names, threads=asked.threads)
    return replace(whole, stages=(replace(stage, ranks=(rank,)),))
