"""The plan of a checkpoint that one process wrote: a rank that holds everything."""

from moe.config.model import ModelConfig
from moe.planning.plan.plan import Plan, RankPlan, StagePlan


def one_rank(config: ModelConfig, device: str) -> Plan:
    """Return a plan with one rank, as far as a checkpoint describes it; any plan resumes it."""
    rank = RankPlan(
        devices=(device,),
        kv_heads=(0, config.kv_heads),
        ffn=(0, config.ffn_size),
        experts=tuple(range(config.experts)),
    )
    return Plan(config.summary(), (StagePlan((0, config.layers), (rank,)),))
