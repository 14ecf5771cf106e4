"""Where the experts of a serving gang go, by the load of requests; and what is told of it."""

from collections.abc import Mapping

import numpy as np

from moe.planning.experts.load import checked_load
from moe.planning.plan.plan import Plan
from pipelines.planning.stage_experts import improved, speeds_of, with_experts
from pipelines.serving.generation.rebalancing import Loads, Rebalance
from pipelines.serving.telemetry import Telemetry


def rebalance(seconds: float, gain: float, telemetry: Telemetry) -> Rebalance:
    """Return how experts are placed: a layer changes where its slowest rank has less to do by
    ``gain``, a part.
    """

    def better(plan: Plan, loads: Loads) -> Plan | None:
        layers = sorted(loads)
        table = checked_load([loads[layer] for layer in layers])
        found = with_experts(plan, improved(plan, layers, table, gain, speeds_of(plan, None)))
        return None if found == plan else found

    def note(plan: Plan, loads: Loads, moved: bool) -> None:
        telemetry.experts(loads, imbalances(plan, loads), moved)

    return Rebalance(seconds, better, note)


def imbalances(plan: Plan, loads: Loads) -> Mapping[int, float]:
    """Return by layer the load of the rank with most, over an even share by the ranks' speeds."""
    speeds, found = speeds_of(plan, None), {}
    for layer, load in loads.items():
        stage = next(n for n, each in enumerate(plan.stages) if layer in each.layer_numbers)
        shares = [plan.share(seat) for seat in plan.seats.of_stage(stage)]
        own = np.asarray(
            [sum(load[expert] for expert in share.experts_of(layer)) for share in shares]
        )
        pace = np.asarray(speeds[stage])
        even = own.sum() / pace.sum()
        found[layer] = float((own / pace).max() / even) if even else 1.0
    return found
