"""Simulates when each stage works: the order of a schedule, played with the seconds of a plan.

Discrete events over the graph of dependencies. A piece of work starts as soon as its stage has done
the one before it and its input has arrived:

    forward of chunk k      the forward of chunk k - 1, and the hop from there
    backward of chunk k     the backward (of the input) of chunk k + 1, and the hop; on the last
                            chunk, its own forward
    weights of chunk k      its own gradient of the input

The hop between two chunks of one stage is 0, else the seconds that a tensor travels between their
stages. A tensor travels beside the work and takes no time of either device. ``makespan_1f1b``
returns the end of 1F1B alone, in a loop made for a search: it does the same additions in the same
order, so it returns the same float.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import NamedTuple

from moe.errors import PlanError
from moe.planning.schedules.schedule import (
    BACKWARD,
    FORWARD,
    INPUT,
    WEIGHT,
    Action,
    Kind,
    Order,
    actions,
    check_schedule,
    most_held,
)


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds of one micro-batch on a stage, or on a chunk of it.

    ``backward`` includes recomputation. ``tail`` follows the stage's last work once a step: the
    reduction of gradients. ``weight_fraction`` is the part of ``backward`` that is the gradient of
    the weights, which zero-bubble schedules put off.
    """

    forward: float
    backward: float
    tail: float = 0.0
    weight_fraction: float = 0.5

    def seconds(self, kind: Kind) -> float:
        """Return the seconds of one piece of work of this kind."""
        if kind == FORWARD:
            return self.forward
        if kind == BACKWARD:
            return self.backward
        part = self.weight_fraction if kind == WEIGHT else 1.0 - self.weight_fraction
        return self.backward * part

    def over(self, chunks: int) -> "StageTimes":
        """Return the times of one of ``chunks`` equal chunks."""
        forward, backward, tail = self.forward, self.backward, self.tail
        return StageTimes(forward / chunks, backward / chunks, tail / chunks, self.weight_fraction)


class Event(NamedTuple):
    """One piece of work and when it starts and stops, in seconds from the start of the step."""

    action: Action
    start: float
    stop: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """The events of each stage in one step; its tail follows the last event."""

    events: tuple[tuple[Event, ...], ...]
    tails: tuple[float, ...]

    @property
    def makespan(self) -> float:
        """Seconds until the last stage is done, tail included."""
        ends = zip(self.events, self.tails, strict=True)
        return max(events[-1].stop + tail for events, tail in ends)

    @property
    def busy(self) -> tuple[float, ...]:
        """Seconds that each stage works, its tail included."""
        return tuple(
            sum((event.stop - event.start for event in events), tail)
            for events, tail in zip(self.events, self.tails, strict=True)
        )

    @property
    def bubble(self) -> tuple[float, ...]:
        """The fraction of the step in which each stage waits, 0 to 1."""
        whole = self.makespan
        return tuple(max(0.0, 1 - busy / whole) if whole else 0.0 for busy in self.busy)

    @property
    def peak_in_flight(self) -> tuple[int, ...]:
        """The most micro-batches whose activations each stage keeps at once, by chunk."""
        return tuple(most_held(event.action for event in events) for events in self.events)


def simulate(
    schedule: str,
    times: Sequence[StageTimes],
    micro_batches: int,
    hops: Sequence[float],
    chunks: int = 1,
) -> Timeline:
    """Simulate a schedule over stages with these times, each cut into equal chunks.

    ``hops[s]`` is the seconds between stages s and s + 1, in both directions. One more, from the
    last stage to the first, may follow; it is needed where chunks go round more than two stages.
    """
    return play(actions(schedule, len(times), micro_batches, chunks), times, hops)


def play(orders: Sequence[Order], times: Sequence[StageTimes], hops: Sequence[float]) -> Timeline:
    """Simulate orders of work, one per stage; ``times`` has one entry per stage, or one per chunk
    along the model.
    """
    homes = _homes(orders)
    seconds = _chunk_times(times, homes, len(orders))
    tails = [0.0] * len(orders)
    for home, each in zip(homes, seconds, strict=True):
        tails[home] += each.tail
    work = _work(seconds, _chunk_hops(homes, hops, len(orders)))
    return Timeline(_events(orders, work), tuple(tails))


def makespan_1f1b(
    forward: Sequence[float],
    backward: Sequence[float],
    hops: Sequence[float],
    micro_batches: int,
    tails: Sequence[float],
) -> float:
    """Return ``simulate("1f1b", ...).makespan`` of these seconds per stage, without the events.

    In round k, stage s does its backward of micro-batch k - p + s and then its forward of
    micro-batch k, where there are such. What that backward waits for was done in the round before.
    """
    stages = len(forward)
    check_schedule("1f1b", stages, micro_batches)
    _check_hops(hops, stages)
    ahead, back = [*hops[: stages - 1], 0.0], [0.0, *hops[: stages - 1]]
    every = list(zip(range(stages), forward, backward, ahead, back, strict=True))
    free, gradient = [0.0] * stages, [0.0] * (stages + 1)
    for number in range(micro_batches):
        arrived = 0.0
        for stage, forward_seconds, backward_seconds, hop, hop_back in every:
            now = free[stage]
            if number + stage >= stages:
                ready = gradient[stage + 1]
                now = (ready if ready > now else now) + backward_seconds
                gradient[stage] = now + hop_back
            now = (arrived if arrived > now else now) + forward_seconds
            free[stage] = now
            arrived = now + hop
    for left in range(stages, 0, -1):
        for stage, _, backward_seconds, _, hop_back in every[:left]:
            ready = gradient[stage + 1]
            now = free[stage]
            free[stage] = now = (ready if ready > now else now) + backward_seconds
            gradient[stage] = now + hop_back
    return max(stop + tail for stop, tail in zip(free, tails, strict=True))


@dataclass(frozen=True, slots=True)
class _Work:
    """One kind of work on one chunk: its seconds, its dependencies, the work it enables."""

    seconds: float
    waits: Kind
    gives: tuple[tuple[Kind, int, float], ...]
    """What then may start (BACKWARD also means INPUT), on which chunk, after how long a hop."""


def _work(seconds: Sequence[StageTimes], hops: Sequence[float]) -> dict[tuple[Kind, int], _Work]:
    """Return the dependencies of every kind of work on every chunk."""
    work: dict[tuple[Kind, int], _Work] = {}
    for chunk, each in enumerate(seconds):
        last = chunk == len(hops)
        onward = (BACKWARD, chunk, 0.0) if last else (FORWARD, chunk + 1, hops[chunk])
        back = ((BACKWARD, chunk - 1, hops[chunk - 1]),) if chunk else ()
        weights = (WEIGHT, chunk, 0.0)
        for kind, waits, gives in (
            (FORWARD, FORWARD, (onward,)),
            (BACKWARD, BACKWARD, back),
            (INPUT, BACKWARD, (*back, weights)),
            (WEIGHT, WEIGHT, ()),
        ):
            work[kind, chunk] = _Work(each.seconds(kind), waits, gives)
    return work


def _events(
    orders: Sequence[Order], work: dict[tuple[Kind, int], _Work]
) -> tuple[tuple[Event, ...], ...]:
    """Run every stage until it waits; resume it when its input arrives."""
    arrivals = {(FORWARD, 0, batch): 0.0 for order in orders for _, _, batch in order}
    asleep: dict[tuple[Kind, int, int], int] = {}
    rows: list[list[Event]] = [[] for _ in orders]
    awake = list(range(len(orders)))
    while awake:
        stage = awake.pop()
        row = rows[stage]
        now = row[-1].stop if row else 0.0
        for action in orders[stage][len(row) :]:
            kind, chunk, batch = action
            this = work[kind, chunk]
            arrival = arrivals.get((this.waits, chunk, batch))
            if arrival is None:
                asleep[this.waits, chunk, batch] = stage
                break
            start = arrival if arrival > now else now
            now = start + this.seconds
            row.append(Event(action, start, now))
            for gives, to, hop in this.gives:
                arrivals[gives, to, batch] = now + hop
                if (gives, to, batch) in asleep:
                    awake.append(asleep.pop((gives, to, batch)))
    if asleep:
        (_, chunk, batch), stage = next(iter(asleep.items()))
        stuck = orders[stage][len(rows[stage])]
        raise PlanError(
            f"stage {stage} waits forever to run {stuck}: no stage before it runs what chunk "
            f"{chunk} needs for micro-batch {batch}; reorder the work"
        )
    return tuple(map(tuple, rows))


def _homes(orders: Sequence[Order]) -> list[int]:
    """Return the stage of each chunk."""
    homes: dict[int, int] = {}
    for stage, order in enumerate(orders):
        for chunk in {action.chunk for action in order}:
            if homes.setdefault(chunk, stage) != stage:
                raise PlanError(
                    f"chunk {chunk} is on stages {homes[chunk]} and {stage}; give it to one"
                )
    if sorted(homes) != list(range(len(homes))) or len(set(homes.values())) < len(orders):
        raise PlanError(
            f"{len(orders)} stages hold the chunks {sorted(homes)}; number chunks from 0 along the "
            "model and give every stage one or more"
        )
    return [homes[chunk] for chunk in range(len(homes))]


def _chunk_times(
    times: Sequence[StageTimes], homes: Sequence[int], stages: int
) -> list[StageTimes]:
    """Return the seconds of each chunk; those of a stage are spread evenly over its chunks."""
    if len(times) not in (stages, len(homes)):
        raise PlanError(
            f"{stages} stages of {len(homes)} chunks have the times of {len(times)}; give one for "
            "each stage, or one for each chunk"
        )
    for number, each in enumerate(times):
        seconds = (each.forward, each.backward, each.tail)
        if not all(isfinite(value) and value >= 0 for value in seconds):
            raise PlanError(
                f"stage {number} has a time that is negative or not finite: {each}; check the costs"
            )
        if not 0 <= each.weight_fraction <= 1:
            raise PlanError(
                f"stage {number} has a weight_fraction of {each.weight_fraction}; "
                "set it from 0 to 1"
            )
    if len(times) != stages:
        return list(times)
    chunks = Counter(homes)
    return [times[home].over(chunks[home]) for home in homes]


def _chunk_hops(homes: Sequence[int], hops: Sequence[float], stages: int) -> list[float]:
    """Return the seconds from each chunk to the next."""
    _check_hops(hops, stages)
    return [_hop(start, stop, hops, stages) for start, stop in pairwise(homes)]


def _hop(start: int, stop: int, hops: Sequence[float], stages: int) -> float:
    low, high = sorted((start, stop))
    if low == high:
        return 0.0
    if high == low + 1:
        return hops[low]
    if (low, high) != (0, stages - 1):
        raise PlanError(
            f"the model goes from stage {start} to stage {stop}, which are not neighbours; "
            "give consecutive chunks to neighbours"
        )
    if len(hops) < stages:
        raise PlanError(
            f"chunks go from the last of {stages} stages back to the first but only {len(hops)} "
            "hops are given; add the seconds of that hop as the last"
        )
    return hops[-1]


def _check_hops(hops: Sequence[float], stages: int) -> None:
    if len(hops) not in (stages - 1, stages):
        raise PlanError(
            f"{stages} stages are joined by {stages - 1} hops, and one from the last to the first, "
            f"but {len(hops)} are given; give the seconds of each"
        )
    if not all(isfinite(hop) and hop >= 0 for hop in hops):
        raise PlanError(f"a hop is negative or not finite: {list(hops)}; give seconds")
