"""Larger plans for a run that grows by itself where nodes come, up to a goal, the largest first.

As long as the stages are those of the goal only replicas are added, so no rank that is there
changes its share. A run that was cut over fewer stages goes back to those of the goal. The devices
of a new replica are on any node: asking a new node for its devices would hold up the next step.
"""

from collections.abc import Iterator
from dataclasses import replace

from moe.errors import PlanError
from moe.planning.plan.plan import Plan, RankPlan, StagePlan

ANYWHERE = "any"
"""The node of devices that the plan does not name: no node has this name."""


def anywhere(plan: Plan, count: int) -> Plan:
    """Return a plan with ``count`` replicas; those beyond its own may be on any node."""
    if count < plan.replicas:
        raise PlanError(f"asked for {count} replicas, but the plan has {plan.replicas} already")
    return replace(plan, stages=tuple(_widened(stage, count) for stage in plan.stages))


def larger(plan: Plan, goal: Plan, least: int) -> Iterator[Plan]:
    """Yield the plans to grow to, from the goal down to the first that is larger.

    ``least`` is the smallest number of replicas that the run may have.
    """
    if same_shape(plan, goal):
        for count in range(goal.replicas, plan.replicas, -1):
            yield anywhere(plan, count)
    elif len(plan.stages) * plan.gang_size < len(goal.stages) * goal.gang_size:
        for count in range(goal.replicas, least - 1, -1):
            yield goal.of_replicas(count)


def same_shape(plan: Plan, goal: Plan) -> bool:
    """Tell whether two plans differ in their replicas alone, or in where experts lie.

    Experts follow the load of a run.
    """
    layers = [stage.spans for stage in plan.stages] == [stage.spans for stage in goal.stages]
    return layers and plan.gang_size == goal.gang_size


def _widened(stage: StagePlan, count: int) -> StagePlan:
    return replace(stage, ranks=tuple(_everywhere(rank, count) for rank in stage.ranks))


def _everywhere(rank: RankPlan, count: int) -> RankPlan:
    more = (f"{ANYWHERE}/{number}" for number in range(len(rank.devices), count))
    return replace(rank, devices=(*rank.devices, *more))
