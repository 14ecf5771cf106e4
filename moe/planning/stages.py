"""Consecutive layers over stages so that the slowest stage is as fast as can be. Exact.

Two passes of dynamic programming over (stage, first layer). The first finds the smallest possible
maximum; the second, among all splits that reach it, the smallest sum of squares, which is the most
even one, and among those the one whose early stages are shortest: under 1F1B they keep the most
micro-batches. Sums are exact: floats are whole multiples of a power of two, and that is the tick
they are counted in, so equal costs stay equal and a tie is a tie. Stages keep their order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import isfinite

from moe.errors import PlanError

Cost = Callable[[int, int, int], int]
"""Ticks of a stage that holds layers start to stop."""


@dataclass(frozen=True, slots=True)
class StageCosts:
    """Seconds of every layer of the model if this stage held it, and of what comes on top.

    ``extra`` is the embedding of the first stage, the head of the last. Unlike devices make unlike
    stages: each has its own seconds for the same layer.
    """

    layers: tuple[float, ...]
    extra: float = 0.0

    def seconds(self, start: int, stop: int) -> float:
        """Return the time of the stage if it held layers ``start`` to ``stop``."""
        return sum(self.layers[start:stop]) + self.extra


def split_layers(stages: Sequence[StageCosts]) -> tuple[tuple[int, int], ...]:
    """Return the span of layers of each stage, at least one each."""
    layers = _check(stages)
    ticks = _ticks(stages)
    never = 1 + sum(ticks(stage, 0, layers) for stage in range(len(stages))) ** 2
    slowest = _solve(len(stages), layers, ticks, max, never)[0][0]

    def capped(stage: int, start: int, stop: int) -> int:
        cost = ticks(stage, start, stop)
        return cost * cost if cost <= slowest else never

    sums = _solve(len(stages), layers, capped, int.__add__, never)
    return tuple(pairwise(_cuts(sums, layers, capped)))


def _solve(
    stages: int, layers: int, cost: Cost, join: Callable[[int, int], int], never: int
) -> list[list[int]]:
    """Return table[stage][start]: the best joined cost of layers ``start``.. on ``stage``.. ."""
    table = [[never] * (layers + 1) for _ in range(stages + 1)]
    table[stages][layers] = 0
    for stage in reversed(range(stages)):
        after = table[stage + 1]
        for start in range(stage, layers - (stages - stage) + 1):
            table[stage][start] = min(
                join(cost(stage, start, stop), after[stop])
                for stop in range(start + 1, layers - (stages - stage - 1) + 1)
            )
    return table


def _cuts(sums: list[list[int]], layers: int, cost: Cost) -> tuple[int, ...]:
    """Walk the second table and take the nearest stop that keeps to its optimum."""
    cuts = [0]
    for stage, (here, after) in enumerate(pairwise(sums)):
        start = cuts[-1]
        cuts.append(
            next(
                stop
                for stop in range(start + 1, layers + 1)
                if cost(stage, start, stop) + after[stop] == here[start]
            )
        )
    return tuple(cuts)


def _ticks(stages: Sequence[StageCosts]) -> Cost:
    costs = [cost for stage in stages for cost in (*stage.layers, stage.extra)]
    unit = max(cost.as_integer_ratio()[1] for cost in costs)
    sums = [
        tuple(accumulate((_whole(cost, unit) for cost in stage.layers), initial=0))
        for stage in stages
    ]
    extras = [_whole(stage.extra, unit) for stage in stages]
    return lambda stage, start, stop: sums[stage][stop] - sums[stage][start] + extras[stage]


def _whole(cost: float, unit: int) -> int:
    numerator, denominator = cost.as_integer_ratio()
    return numerator * (unit // denominator)


def _check(stages: Sequence[StageCosts]) -> int:
    if not stages:
        raise PlanError("asked for a plan of no stages; set plan.stages to at least 1")
    layers = len(stages[0].layers)
    if len(stages) > layers:
        raise PlanError(
            f"plan needs {len(stages)} stages but the model has {layers} layers; "
            f"lower plan.stages to {layers} or less"
        )
    for number, stage in enumerate(stages):
        if len(stage.layers) != layers:
            raise PlanError(
                f"stage {number} has costs of {len(stage.layers)} layers, stage 0 of {layers}; "
                "give every stage the cost of every layer"
            )
        if not all(isfinite(cost) and cost >= 0 for cost in (*stage.layers, stage.extra)):
            raise PlanError(
                f"stage {number} has a cost that is negative or not finite; check device speeds"
            )
    return layers
