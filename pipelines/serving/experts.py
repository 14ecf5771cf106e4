"""Where the experts of a serving gang go, by the load of requests; and what is told of it."""

from collections.abc import Mapping

from moe.planning.experts.load import checked_load
from moe.planning.experts.packing import Floats
from moe.planning.plan.plan import Plan
from pipelines.planning.stage_experts import improved, speeds_of, stages_of, with_experts
from pipelines.serving.generation.rebalancing import Loads, Rebalance
from pipelines.serving.telemetry import Telemetry


def rebalance(seconds: float, gain: float, telemetry: Telemetry) -> Rebalance:
    """Return how experts are placed: a layer changes where its slowest rank has less to do by
    ``gain``, a part.
    """

    def better(plan: Plan, loads: Loads) -> Plan | None:
        found = with_experts(plan, improved(plan, *_table(loads), gain, speeds_of(plan, None)))
        return None if found == plan else found

    def note(plan: Plan, loads: Loads, moved: bool) -> None:
        telemetry.experts(loads, imbalances(plan, loads), moved)

    return Rebalance(seconds, better, note)


def imbalances(plan: Plan, loads: Loads) -> Mapping[int, float]:
    """Return by layer the load of the rank with most, over an even share by the ranks' speeds."""
    stages = stages_of(plan, *_table(loads), speeds_of(plan, None))
    return {layer: before for each in stages for layer, before, _ in each.ratios}


def _table(loads: Loads) -> tuple[list[int], Floats]:
    """Return the layers, and the load of each [layers, experts]."""
    layers = sorted(loads)
    return layers, checked_load([loads[layer] for layer in layers])
