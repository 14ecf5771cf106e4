"""What a plan is searched for: the least step, the most tokens held in serving, the least memory.

Each gives a shape a value, the less the better, a bound on it that is cheap, and solves a shape's
pipeline for it. The second and third are bottlenecks: the largest value that the worst stage must
come to is found by bisection, asking each time whether any pipeline keeps to it; among those that
do, the one with the least seconds is taken.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from moe.config.model import ModelConfig
from moe.config.share import whole
from moe.planning.counts.memory import Position, cache_bytes_per_token
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.search.pipeline import MOST_NODES, Answer, Limits, Pipeline
from moe.planning.search.shapes import least_bytes
from moe.planning.stages.gang import GangCosts, StageCost
from moe.planning.stages.member import Span

_SAME = 1 + 1e-12
_BISECTIONS = 40


class Objective(Protocol):
    """A value of shapes and pipelines, the less the better."""

    def least(self, ranks: int, replicas: int, seconds: float) -> float:
        """Return a bound for pipelines of so many ranks whose step takes at least so long."""
        ...

    def solve(
        self, problem: Pipeline, below: float, nodes: int = MOST_NODES
    ) -> tuple[float, Answer] | None:
        """Return the best pipeline with its value, None where none is below ``below``.

        After so many ``nodes`` it is only the best in reach.
        """
        ...

    def refine(self, problem: Pipeline, best: tuple[float, Answer]) -> Answer:
        """Return the best among pipelines of the same value."""
        ...

    def equals(self, problem: Pipeline, best: Answer) -> Iterator[Answer]:
        """Yield the pipelines that are as good as the best in every respect."""
        ...


class LeastStep:
    """The least seconds of a step; then the least fullness of the fullest device."""

    def least(self, ranks: int, replicas: int, seconds: float) -> float:
        """Return what a step takes at least."""
        return seconds

    def solve(
        self, problem: Pipeline, below: float, nodes: int = MOST_NODES
    ) -> tuple[float, Answer] | None:
        """Return the pipeline with the least step."""
        answer = problem.solve(Limits(below=below, nodes=nodes))
        return None if answer is None else (answer.seconds, answer)

    def refine(self, problem: Pipeline, best: tuple[float, Answer]) -> Answer:
        """Return the leanest pipeline that takes no longer."""
        seconds, answer = best
        while True:
            leaner = problem.solve(_no_fuller(seconds * _SAME, answer.fullness))
            if leaner is None:
                return answer
            answer = leaner

    def equals(self, problem: Pipeline, best: Answer) -> Iterator[Answer]:
        """Yield the pipelines that take no longer and are no fuller."""
        return problem.answers(_no_fuller(best.seconds * _SAME, best.fullness * _SAME))


class LeastMemory:
    """The least fullness of the fullest device; then the least step."""

    def __init__(self, config: ModelConfig, inventory: Inventory, workload: Workload) -> None:
        self._config, self._workload = config, workload
        self._largest = max(device.memory_bytes for device in inventory.devices)

    def least(self, ranks: int, replicas: int, seconds: float) -> float:
        """Return the fullness of weights and states, spread evenly."""
        return least_bytes(self._config, ranks, replicas, self._workload) / self._largest

    def solve(
        self, problem: Pipeline, below: float, nodes: int = MOST_NODES
    ) -> tuple[float, Answer] | None:
        """Return the pipeline with the least fullness, and of these the one with the least step."""
        answer = problem.solve(Limits(room=min(below, 1.0), nodes=nodes))
        if answer is None:
            return None
        low, high = 0.0, answer.fullness
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            found = problem.solve(Limits(room=middle, nodes=nodes))
            if found is None:
                low = middle
            else:
                answer, high = found, found.fullness
        return (answer.fullness, answer) if answer.fullness < below else None

    def refine(self, problem: Pipeline, best: tuple[float, Answer]) -> Answer:
        """Return the answer: its step is already the least."""
        return best[1]

    def equals(self, problem: Pipeline, best: Answer) -> Iterator[Answer]:
        """Yield the pipelines that are no fuller and take no longer."""
        return problem.answers(Limits(below=best.seconds * _SAME, room=best.fullness))


class MostTokens:
    """The most tokens whose keys and values the tightest stage holds; then the least seconds."""

    def __init__(self, config: ModelConfig, inventory: Inventory, workload: Workload) -> None:
        self._largest = max(device.memory_bytes for device in inventory.devices)
        self._each = cache_bytes_per_token(config, whole(config), workload)
        self._config, self._workload = config, workload

    def least(self, ranks: int, replicas: int, seconds: float) -> float:
        """Return the negative of what would fit if weights and cache spread evenly."""
        taken = least_bytes(self._config, ranks, replicas, self._workload)
        return -float(ranks * max(0, self._largest - taken) / self._each) - 1

    def solve(
        self, problem: Pipeline, below: float, nodes: int = MOST_NODES
    ) -> tuple[float, Answer] | None:
        """Return the pipeline that holds the most tokens, its value the negative of them."""
        low = max(1, int(-below) + 1) if below < 0 else 1
        if not problem.possible(_holding(low)):
            return None
        high = 2 * low
        while problem.possible(_holding(high)):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            if problem.possible(_holding(middle)):
                low = middle
            else:
                high = middle
        answer = problem.solve(replace(_holding(low), nodes=nodes))
        return None if answer is None else (-float(tokens_held(answer, problem)), answer)

    def refine(self, problem: Pipeline, best: tuple[float, Answer]) -> Answer:
        """Return the answer: its seconds are already the least."""
        return best[1]

    def equals(self, problem: Pipeline, best: Answer) -> Iterator[Answer]:
        """Yield the pipelines that hold as many tokens and take no longer."""
        limits = _holding(tokens_held(best, problem))
        return problem.answers(replace(limits, below=best.seconds * _SAME))


def tokens_held(answer: Answer, problem: Pipeline) -> int:
    """Return how many tokens' keys and values the tightest stage holds."""
    stages = zip(answer.stages, problem.positions, strict=True)
    return min(stage.costs.tokens(stage.layers, position) for stage, position in stages)


def objective(
    name: str, config: ModelConfig, inventory: Inventory, workload: Workload
) -> Objective:
    """Return an objective by its name."""
    if name == "memory":
        return LeastMemory(config, inventory, workload)
    if name == "tokens":
        return MostTokens(config, inventory, workload)
    return LeastStep()


def _no_fuller(below: float, fullness: float) -> Limits:
    def accept(costs: GangCosts, layers: Span, position: Position, cost: StageCost) -> bool:
        return cost.fullness < fullness

    return Limits(below=below, accept=accept)


def _holding(tokens: int) -> Limits:
    def accept(costs: GangCosts, layers: Span, position: Position, cost: StageCost) -> bool:
        return costs.tokens(layers, position) >= tokens

    return Limits(accept=accept)
