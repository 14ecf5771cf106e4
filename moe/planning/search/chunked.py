"""Plans for the schedules that the exact search has no bounds for.

The search finds a pipeline for 1F1B. Its gangs are kept and the layers of each stage cut into spans
as even as can be. Then layers go one by one, from slow or too full places to quick or empty ones,
as long as the step that the schedule itself takes shrinks: from stage to stage, then span to span.
Every stage recomputes as little as fits the micro-batches the schedule keeps. What comes out is no
worse than the pipeline of the search under that schedule; that it is the best is not proved.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from moe.config.model import ModelConfig
from moe.errors import PlanError
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.plan.chunks import FOLDED_SCHEDULE
from moe.planning.plan.plan import Plan
from moe.planning.prediction.positions import plan_positions
from moe.planning.prediction.predict import Prediction, between_stages, gang_costs
from moe.planning.search.interleave import Spans, cut_spans, interleave, spans_by_stage
from moe.planning.stages.split import split

SEARCHED = ("1f1b", "gpipe")
"""Schedules that the search has bounds of."""

_CANDIDATES = 3
"""Stages, and spans, that are tried for giving a layer away, and for taking it."""


def searchable(workload: Workload, stages: int | None = None) -> Workload:
    """Return the workload to search with: under another schedule if there are no bounds of its own.

    1F1B asks for a micro-batch a stage; with fewer it is GPipe.
    """
    if not workload.training or workload.schedule in SEARCHED:
        return workload
    enough = stages is None or workload.micro_batches >= stages
    return replace(workload, schedule="1f1b" if enough else "gpipe")


def for_schedule(
    config: ModelConfig, plan: Plan, inventory: Inventory, workload: Workload, chunks: int = 1
) -> Plan:
    """Return a plan of the search for the workload's own schedule, in so many spans a stage."""
    if chunks == 1 and (not workload.training or workload.schedule in SEARCHED):
        return plan
    folded = workload.training and workload.schedule == FOLDED_SCHEDULE
    sizes = _at_least(chunks, [len(stage.layer_numbers) for stage in plan.stages])
    shell = interleave(_resized(plan, sizes), chunks, folded)
    return _Improvement(config, shell, inventory, workload).plan()


@dataclass(frozen=True, slots=True)
class _Tried:
    """Chunks of so many layers, and what they come to: the less the better."""

    lengths: tuple[int, ...]
    spans: tuple[Spans, ...]
    predicted: Prediction

    @property
    def fullness(self) -> float:
        """Of the fullest device."""
        return max(stage.fullness for stage in self.predicted.stages)

    @property
    def value(self) -> tuple[float, float]:
        """Whether it fits comes first, then its step."""
        return max(1.0, self.fullness), self.predicted.step_seconds


class _Improvement:
    """Layers that change chunks under one schedule, on the gangs of one plan."""

    def __init__(
        self, config: ModelConfig, shell: Plan, inventory: Inventory, workload: Workload
    ) -> None:
        self._shell, self._workload = shell, workload
        self._positions = plan_positions(shell, workload)
        self._costs = gang_costs(config, shell, inventory, workload)
        self._none = between_stages(config, shell, inventory, workload, ())

    def plan(self) -> Plan:
        """Return the best plan that moving layers one by one leads to."""
        best = self._try(tuple(stop - start for start, stop in self._shell.chunk_spans))
        for moved in (self._between_stages, self._between_runs):
            best = self._improved(best, moved)
        if best.fullness > 1:
            raise PlanError(self._too_full(best))
        return self._written(best)

    def _try(self, lengths: tuple[int, ...]) -> _Tried:
        spans = spans_by_stage(lengths, len(self._costs), self._shell.folded)
        stages = tuple(
            costs.leanest(held, position)
            for costs, held, position in zip(self._costs, spans, self._positions, strict=True)
        )
        return _Tried(lengths, spans, replace(self._none, stages=stages))

    def _improved(
        self, best: _Tried, moved: Callable[[_Tried], Iterator[tuple[int, ...]]]
    ) -> _Tried:
        """Make the best of the moves again and again until none helps."""
        while True:
            others = map(self._try, moved(best))
            better = min(others, key=lambda each: each.value, default=best)
            if better.value >= best.value:
                return best
            best = better

    def _between_stages(self, tried: _Tried) -> Iterator[tuple[int, ...]]:
        """Yield the lengths after a layer has gone to another stage, spans as even as can be."""
        chunks, homes = self._shell.chunks, self._shell.chunk_homes
        sizes = [sum(stop - start for start, stop in spans) for spans in tried.spans]
        for moved in _one_moved(sizes, *_slow_and_quick(tried), chunks):
            shares = [split(size, chunks) for size in moved]
            yield tuple(shares[stage][span] for stage, span in homes)

    def _between_runs(self, tried: _Tried) -> Iterator[tuple[int, ...]]:
        """Yield the lengths after a layer has gone to another span.

        From the slowest spans and the slowest of slow stages, to the quickest likewise.
        """
        slow, quick = _slow_and_quick(tried)
        seconds = [forward + backward for forward, backward, _ in tried.predicted.chunk_seconds]
        by_time = sorted(range(len(seconds)), key=seconds.__getitem__)
        givers = {max(self._shell.chunks_of(stage), key=seconds.__getitem__) for stage in slow}
        takers = {min(self._shell.chunks_of(stage), key=seconds.__getitem__) for stage in quick}
        givers.update(by_time[-_CANDIDATES:])
        takers.update(by_time[:_CANDIDATES])
        yield from _one_moved(tried.lengths, givers, takers, 1)

    def _written(self, best: _Tried) -> Plan:
        stages = tuple(
            replace(
                stage,
                layers=spans[0],
                more=spans[1:],
                recompute=cost.recompute,
                seconds=cost.seconds,
            )
            for stage, spans, cost in zip(
                self._shell.stages, best.spans, best.predicted.stages, strict=True
            )
        )
        return replace(self._shell, stages=stages)

    def _too_full(self, best: _Tried) -> str:
        fullness = [stage.fullness for stage in best.predicted.stages]
        stage = fullness.index(max(fullness))
        return (
            f"under {self._workload.schedule} with {self._shell.chunks} spans of layers a stage, "
            f"stage {stage} needs {fullness[stage]:.2f} times the memory of its device, all layers "
            "recomputed; choose 1f1b, raise plan.stages or plan.gang, or lower the micro-batch or "
            "the sequence length"
        )


def _slow_and_quick(tried: _Tried) -> tuple[set[int], set[int]]:
    """Return the slowest stages and the fullest, and the quickest and the emptiest."""
    costs = tried.predicted.stages
    by_time = sorted(range(len(costs)), key=lambda stage: costs[stage].seconds)
    by_room = sorted(range(len(costs)), key=lambda stage: costs[stage].fullness)
    return {*by_time[-_CANDIDATES:], by_room[-1]}, {*by_time[:_CANDIDATES], by_room[0]}


def _one_moved(
    counts: Sequence[int], givers: Iterable[int], takers: Iterable[int], least: int
) -> Iterator[tuple[int, ...]]:
    """Yield the counts with one moved from a giver to a taker; each keeps the least."""
    for giver, taker in product(sorted(givers), sorted(takers)):
        if giver != taker and counts[giver] > least:
            moved = list(counts)
            moved[giver] -= 1
            moved[taker] += 1
            yield tuple(moved)


def _at_least(chunks: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes with a layer for every span, taken from the longest stages."""
    total, stages = sum(sizes), len(sizes)
    if total < chunks * stages:
        raise PlanError(
            f"the model has {total} layers, too few for {stages} stages of {chunks} spans of "
            "layers each; lower plan.chunks or plan.stages"
        )
    found = [max(size, chunks) for size in sizes]
    for _ in range(sum(found) - total):
        longest = max(range(stages), key=lambda stage: (found[stage] > chunks, found[stage]))
        found[longest] -= 1
    return tuple(found)


def _resized(plan: Plan, sizes: Sequence[int]) -> Plan:
    """Return the gangs of a plan with so many layers each, nothing recomputed."""
    stages = (
        replace(stage, layers=spans[0], seconds=0.0, recompute=(), expert_layout=())
        for stage, spans in zip(plan.stages, cut_spans(sizes, 1), strict=True)
    )
    return replace(plan, stages=tuple(stages))
