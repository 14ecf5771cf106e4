"""The exact search inside one shape: units and layers of each stage, and what it recomputes.

Best first, from the first stage on. A node is the first stages, decided; its bound is that of these
with the least that any choice for the rest could add (``moe.planning.search.bounds``), so the first
whole pipeline to come up has the least step of all. Alike units are taken in the order of the
inventory. A stage recomputes as little as fits.

Example: 3 layers of 1 s both ways, 2 stages, 4 micro-batches, the head 1 s more on stage 1. Nodes
are "stage 0 holds 1 layer" and "stage 0 holds 2 layers". Of the first: stage 1 has 2 layers and the
head, 3 s, so a step takes at least 1 + 4 x 3 = 13 s. Of the second: 2 s on both stages, at least
2 + 4 x 2 = 10 s. The second is taken first; it is whole once stage 1 gets the last layer, its step
as simulated is 10 s, and no open node has a bound below 10: it is the best.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, starmap
from math import inf

from moe.planning.counts.memory import Position
from moe.planning.search.bounds import Bounds, State, Times, times_of
from moe.planning.search.shapes import Floor
from moe.planning.stages.gang import GangCosts, StageCost
from moe.planning.stages.member import Span
from moe.planning.stages.units import Unit

MOST_NODES = 100_000
"""Nodes after which a search stops proving and takes the best it can reach."""


@dataclass(frozen=True, slots=True)
class UnitKind:
    """Units that cost the same, in the order they are taken."""

    costs: GangCosts
    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A stage of the answer."""

    unit: Unit
    costs: GangCosts
    layers: Span
    cost: StageCost


@dataclass(frozen=True, slots=True)
class Answer:
    """The best pipeline and the seconds of its step; ``gap`` is what could be missing, mostly 0."""

    stages: tuple[Chosen, ...]
    seconds: float
    gap: float = 0.0

    @property
    def fullness(self) -> float:
        """The largest part of its memory that a device uses."""
        return max(stage.cost.fullness for stage in self.stages)


@dataclass(frozen=True, slots=True)
class Fixed:
    """What is given: layers of each stage, how many of them it recomputes, its first device."""

    layers: tuple[int, ...] | None = None
    recompute: tuple[int, ...] | None = None
    order: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pipeline must keep to.

    Its step takes less than ``below``. Stages recompute until they take no more than ``room`` of
    a device's memory; ``accept`` may refuse a stage that fits. After so many ``nodes`` a search
    stops proving.
    """

    below: float = inf
    room: float = 1.0
    nodes: int = MOST_NODES
    accept: Callable[[GangCosts, Span, Position, StageCost], bool] | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One problem: kinds of units to put in a row of stages, one for each position."""

    kinds: tuple[UnitKind, ...]
    positions: tuple[Position, ...]
    layers: int
    bounds: Bounds
    hop: Callable[[Unit, Unit], float]
    tied: Callable[[Unit, Unit], float]
    floor: Floor
    fixed: Fixed = Fixed()
    node_by_node: bool = False
    """Whether units of a kind are taken in that order without trying others."""

    def solve(self, limits: Limits = NO_LIMITS) -> Answer | None:
        """Return the pipeline with the least step, None where none keeps to the limits."""
        return next(self.answers(limits), None)

    def possible(self, limits: Limits) -> bool:
        """Tell whether any pipeline keeps to the limits, as far as bounds tell."""
        return _Search(self, limits).possible()

    def answers(self, limits: Limits = NO_LIMITS) -> Iterator[Answer]:
        """Yield the pipelines that keep to the limits, those with the least step first."""
        return _Search(self, limits).run()


@dataclass(frozen=True, slots=True)
class _Step:
    """A stage decided: the number of its kind, which unit of it, its layers and their cost."""

    kind: int
    unit: int
    layers: Span
    cost: StageCost


class _Search:
    """One run: what the stages from any point on add at least, and the nodes still open."""

    def __init__(self, problem: Pipeline, limits: Limits) -> None:
        self._problem, self._limits = problem, limits
        self._stages = len(problem.positions)
        self._rests: dict[tuple[int, int, tuple[int, ...]], State | None] = {}
        self._options: dict[tuple[int, int, int], list[tuple[Span, StageCost]]] = {}
        self._hops: dict[tuple[int, int, int, int], float] = {}
        self._nearest = [self._nearest_of(number) for number in range(len(problem.kinds))]
        waits = self._least_waits()
        total = problem.floor.total + sum(waits)
        self._most = [
            problem.bounds.most(limits.below, total, self._stages - 1 - stage) - wait
            if total < inf
            else -inf
            for stage, wait in enumerate(waits)
        ]
        self._windows = problem.floor.windows(self._most)
        self._least_tied = self._tied_at_least()

    def possible(self) -> bool:
        """Tell whether there is a way to do all."""
        return self._rest(0, 0, self._left(())) is not None

    def run(self) -> Iterator[Answer]:
        """Take the most promising node; yield it where it is a whole pipeline."""
        ticks = count()
        root: tuple[_Step, ...] = ()
        open_nodes = [(0.0, 0, next(ticks), root)]
        while open_nodes:
            bound, _, _, path = heapq.heappop(open_nodes)
            if len(path) == self._stages:
                yield self._answer(path, bound)
                continue
            if next(ticks) > self._limits.nodes:
                reached = self._dive(path, bound)
                if reached is not None:
                    yield reached
                return
            for child in self._children(path):
                least = self._least(child)
                if least < self._limits.below:
                    heapq.heappush(open_nodes, (least, -len(child), next(ticks), child))

    def _dive(self, path: tuple[_Step, ...], bound: float) -> Answer | None:
        """Complete a node by the best child each time, and say how far off that may be."""
        while len(path) < self._stages:
            children = list(self._children(path))
            if not children:
                return None
            path = min(children, key=self._least)
        seconds = self._least(path)
        if seconds >= self._limits.below:
            return None
        return self._answer(path, seconds, seconds / bound - 1)

    def _children(self, path: tuple[_Step, ...]) -> Iterator[tuple[_Step, ...]]:
        stage, start, left = len(path), path[-1].layers[1] if path else 0, self._left(path)
        for number in self._offered(stage, left):
            rest = self._less(left, number)
            unit = self._next_unit(number, left)
            if path and self._hop(path[-1].kind, path[-1].unit, number, unit) == inf:
                continue
            for layers, cost in self._choices(stage, number, start):
                if self._rest(stage + 1, layers[1], rest) is not None:
                    yield (*path, _Step(number, unit, layers, cost))

    def _least(self, path: tuple[_Step, ...]) -> float:
        """Return the seconds of a whole pipeline, or what its beginning must come to at least."""
        times = [self._times(path, stage) for stage in range(len(path))]
        if len(path) == self._stages:
            return self._problem.bounds.exact(times) + self._tied(path[0], path[-1])
        state = self._rest(len(path), path[-1].layers[1], self._left(path))
        if state is None:
            return inf
        for stage in reversed(range(len(path))):
            state = self._problem.bounds.before(state, times[stage], self._stages - 1 - stage)
        return self._problem.bounds.least(state) + self._least_tied

    def _rest(self, stage: int, start: int, left: tuple[int, ...]) -> State | None:
        """Return the least of each entry over all ways to do the rest; None if there is no way."""
        if stage == self._stages:
            return self._problem.bounds.nothing if start == self._problem.layers else None
        earliest, latest = self._windows[stage]
        if not earliest <= start <= latest:
            return None
        key = stage, start, left
        if key not in self._rests:
            self._rests[key] = self._least_rest(stage, start, left)
        return self._rests[key]

    def _least_rest(self, stage: int, start: int, left: tuple[int, ...]) -> State | None:
        bounds, behind = self._problem.bounds, self._stages - 1 - stage
        best: State | None = None
        for number in self._offered(stage, left):
            ways = self._least_ways(stage, number, left)
            if inf in ways:
                continue
            rest = self._less(left, number)
            for layers, cost in self._choices(stage, number, start):
                after = self._rest(stage + 1, layers[1], rest)
                if after is not None:
                    state = bounds.before(after, times_of(cost, *ways), behind)
                    best = state if best is None else tuple(map(min, best, state))
        if best is None or bounds.least(best) >= self._limits.below:
            return None
        return best

    def _choices(self, stage: int, number: int, start: int) -> list[tuple[Span, StageCost]]:
        """Return the layers a stage may hold from ``start`` on, with their costs."""
        key = stage, number, start
        if key not in self._options:
            self._options[key] = list(self._allowed(stage, number, start))
        return self._options[key]

    def _allowed(self, stage: int, number: int, start: int) -> Iterator[tuple[Span, StageCost]]:
        costs, position = self._problem.kinds[number].costs, self._problem.positions[stage]
        limits = self._limits
        for stop in self._stops(stage, start):
            layers = start, stop
            cost = self._cost(stage, costs, layers)
            if cost.fullness > limits.room or cost.seconds > self._most[stage]:
                return
            if limits.accept is None or limits.accept(costs, layers, position, cost):
                yield layers, cost

    def _stops(self, stage: int, start: int) -> Sequence[int]:
        fixed, layers = self._problem.fixed.layers, self._problem.layers
        behind = self._stages - 1 - stage
        if fixed is not None:
            stop = start + fixed[stage]
            return (stop,) if stop <= layers - behind else ()
        return range(start + 1, layers - behind + 1) if behind else range(layers, layers + 1)

    def _cost(self, stage: int, costs: GangCosts, layers: Span) -> StageCost:
        position, fixed = self._problem.positions[stage], self._problem.fixed.recompute
        if fixed is not None:
            return costs.fixed(layers, position, range(layers[0], layers[0] + fixed[stage]))
        return costs.alike(layers, position, self._limits.room)

    def _offered(self, stage: int, left: tuple[int, ...]) -> Iterator[int]:
        """Yield the kinds that have a unit for a stage."""
        order = self._problem.fixed.order
        for number, remaining in enumerate(left):
            if not remaining:
                continue
            unit = self._problem.kinds[number].units[self._next_unit(number, left)]
            if order is None or unit.gangs[0][0].name == order[stage]:
                yield number

    def _left(self, path: tuple[_Step, ...]) -> tuple[int, ...]:
        left = [len(kind.units) for kind in self._problem.kinds]
        for step in path:
            left[step.kind] -= 1
        return tuple(left)

    def _less(self, left: tuple[int, ...], number: int) -> tuple[int, ...]:
        return (*left[:number], left[number] - 1, *left[number + 1 :])

    def _next_unit(self, number: int, left: tuple[int, ...]) -> int:
        return len(self._problem.kinds[number].units) - left[number]

    def _times(self, path: tuple[_Step, ...], stage: int) -> Times:
        """Return the seconds of a decided stage; the way to one not decided is the shortest."""
        step = path[stage]
        arriving = self._way(path[stage - 1], step) if stage else 0.0
        if stage + 1 < len(path):
            returning = self._way(step, path[stage + 1])
        elif stage + 1 == self._stages:
            returning = 0.0
        elif len(self._problem.kinds) == 1:
            returning = self._hop(step.kind, step.unit, step.kind, step.unit + 1)
        else:
            returning = self._nearest[step.kind]
        return times_of(step.cost, arriving, returning)

    def _least_ways(self, stage: int, number: int, left: tuple[int, ...]) -> tuple[float, float]:
        """Return the shortest ways to a stage that is not decided, from before and from after."""
        before, after = stage > 0, stage < self._stages - 1
        if len(self._problem.kinds) > 1:
            nearest = self._nearest[number]
            return nearest * before, nearest * after
        unit = self._next_unit(number, left)
        return (
            self._hop(number, unit - 1, number, unit) if before else 0.0,
            self._hop(number, unit, number, unit + 1) if after else 0.0,
        )

    def _nearest_of(self, number: int) -> float:
        """Return the shortest way between a unit of a kind and any other, in the first replica.

        With all replicas it is no shorter, and takes as many times as long to find.
        """
        kinds = self._problem.kinds
        if len(kinds) == 1:
            return 0.0
        firsts = [[Unit(unit.gangs[:1]) for unit in kind.units] for kind in kinds]
        return min(
            self._problem.hop(one, two)
            for one in firsts[number]
            for two in chain.from_iterable(firsts)
            if one is not two
        )

    def _least_waits(self) -> list[float]:
        """Return the seconds of a micro-batch that each stage waits for its neighbours at least."""
        if len(self._problem.kinds) == 1:
            hops = [self._hop(0, stage, 0, stage + 1) for stage in range(self._stages - 1)]
        else:
            hops = [min(self._nearest)] * (self._stages - 1)
        waited = self._problem.bounds.waited
        return list(starmap(waited, zip((0.0, *hops), (*hops, 0.0), strict=True)))

    def _tied_at_least(self) -> float:
        """Return the least seconds that tied embeddings take between any first and last stage."""
        if self._stages == 1:
            return 0.0
        units = {unit.nodes: unit for kind in self._problem.kinds for unit in kind.units}
        return min(
            self._problem.tied(one, other) for one in units.values() for other in units.values()
        )

    def _tied(self, first: _Step, last: _Step) -> float:
        if self._stages == 1:
            return 0.0
        ends = [self._problem.kinds[step.kind].units[step.unit] for step in (first, last)]
        return self._problem.tied(*ends)

    def _way(self, one: _Step, other: _Step) -> float:
        return self._hop(one.kind, one.unit, other.kind, other.unit)

    def _hop(self, kind: int, unit: int, other_kind: int, other: int) -> float:
        key = kind, unit, other_kind, other
        if key not in self._hops:
            kinds = self._problem.kinds
            self._hops[key] = self._problem.hop(
                kinds[kind].units[unit], kinds[other_kind].units[other]
            )
        return self._hops[key]

    def _answer(self, path: tuple[_Step, ...], seconds: float, gap: float = 0.0) -> Answer:
        """Return the pipeline, with the very layers that each stage recomputes."""
        stages = []
        for position, step in zip(self._problem.positions, path, strict=True):
            kind, cost = self._problem.kinds[step.kind], step.cost
            if self._problem.fixed.recompute is None:
                cost = kind.costs.stage(step.layers, position, self._limits.room)
            stages.append(Chosen(kind.units[step.unit], kind.costs, step.layers, cost))
        return Answer(tuple(stages), seconds, gap)
