"""What a pipeline takes at least, from the costs of its last stages: the bounds of the search.

A state sums up the stages from one of them to the last; ``before`` puts a stage in front. Every
entry is the length of a path through the schedule, so none is longer than the schedule takes, and
the least of each entry over several pipelines bounds them all. Hops are part of the seconds of the
stage that waits for them.

1F1B, for the stages from s on, with m micro-batches and w stages after s:

    first    from the first forward on s to its first backward: stay, or pass through those after
    last     from the last forward on s to its last backward: likewise
    whole    from the first forward on s to its last backward: pass to the next stage and back, or
             first, then m - 2 - w micro-batches on s alone, then last
    end      from the first forward on s to the end of a reduction of gradients, of s or after it

The paths that wait on two stages in turn are left out; without them the bound was seen to equal the
schedule in all but a few of the cases where stages are balanced (tests).
"""

from collections.abc import Sequence
from itertools import chain
from math import inf, isfinite
from typing import NamedTuple, Protocol

from moe.errors import PlanError
from moe.planning.counts.workload import Workload
from moe.planning.schedules.simulate import StageTimes, makespan_1f1b, simulate
from moe.planning.stages.gang import StageCost

State = tuple[float, ...]


class Times(NamedTuple):
    """Seconds of a stage: of a micro-batch, with what it waits for, and once a step."""

    forward: float
    backward: float
    reduce: float
    update: float


class Bounds(Protocol):
    """Bounds of one schedule."""

    @property
    def nothing(self) -> State:
        """The state of no stage."""
        ...

    def before(self, after: State, stage: Times, behind: int) -> State:
        """Return the state with a stage in front that has ``behind`` stages after it."""
        ...

    def least(self, state: State) -> float:
        """Return what the step takes at least, of a whole pipeline or of its last stages."""
        ...

    def waited(self, arriving: float, returning: float) -> float:
        """Return what a stage waits of a micro-batch, whose hops to and from it take so long."""
        ...

    def most(self, below: float, total: float, behind: int) -> float:
        """Return what a stage may take of a micro-batch if the step is to take less than ``below``.

        ``total`` is what all stages take of a micro-batch at least.
        """
        ...

    def exact(self, stages: Sequence[Times]) -> float:
        """Return what the step takes."""
        ...


class OneForwardOneBackward:
    """1F1B: a state is (first, last, whole, end, update)."""

    def __init__(self, micro_batches: int) -> None:
        self._micro_batches = micro_batches

    nothing: State = (0.0, 0.0, 0.0, 0.0, 0.0)

    def before(self, after: State, stage: Times, behind: int) -> State:
        """Return the state with a stage in front that has ``behind`` stages after it."""
        forward, backward = stage.forward, stage.backward
        both = forward + backward
        first = max((behind + 1) * forward + backward, both + after[0])
        last = max(forward + (behind + 1) * backward, both + after[1])
        alone = self._micro_batches - 2 - behind
        if alone >= 0:
            own = first + alone * both + last
        else:
            rest = self._micro_batches - 1
            own = max(first + rest * backward, rest * forward + last)
        whole = max(both + after[2], own) if self._micro_batches > 1 else first
        end = max(forward + after[3], whole + stage.reduce)
        return first, last, whole, end, max(after[4], stage.update)

    def least(self, state: State) -> float:
        """Return what the step takes at least."""
        return state[3] + state[4]

    def waited(self, arriving: float, returning: float) -> float:
        """Return what a stage waits of a micro-batch: both ways."""
        return arriving + returning

    def most(self, below: float, total: float, behind: int) -> float:
        """Return what a stage may take: alone, and by the mean of two paths through it."""
        alone = below / self._micro_batches
        fill = self._micro_batches - 1 - behind / 2
        return min(alone, (below - total) / fill) if fill > 0 else alone

    def exact(self, stages: Sequence[Times]) -> float:
        """Return what the step takes."""
        forward, backward = [each.forward for each in stages], [each.backward for each in stages]
        none, reduce = [0.0] * (len(stages) - 1), [each.reduce for each in stages]
        makespan = makespan_1f1b(forward, backward, none, self._micro_batches, reduce)
        return makespan + max(each.update for each in stages)


class AllForwardAllBackward:
    """GPipe: a state is (sum, slowest forward, slowest backward, first reduction, update)."""

    def __init__(self, micro_batches: int) -> None:
        self._micro_batches = micro_batches

    nothing: State = (0.0, 0.0, 0.0, 0.0, 0.0)

    def before(self, after: State, stage: Times, behind: int) -> State:
        """Return the state with a stage in front."""
        return (
            after[0] + stage.forward + stage.backward,
            max(after[1], stage.forward),
            max(after[2], stage.backward),
            stage.reduce,
            max(after[4], stage.update),
        )

    def least(self, state: State) -> float:
        """Return what the step takes at least."""
        total, forward, backward, reduce, update = state
        return total + (self._micro_batches - 1) * (forward + backward) + reduce + update

    def waited(self, arriving: float, returning: float) -> float:
        """Return what a stage waits of a micro-batch: both ways."""
        return arriving + returning

    def most(self, below: float, total: float, behind: int) -> float:
        """Return what a stage may take."""
        return below / self._micro_batches

    def exact(self, stages: Sequence[Times]) -> float:
        """Return what the step takes."""
        if not all(map(isfinite, chain.from_iterable(stages))):
            return inf
        times = [StageTimes(each.forward, each.backward, each.reduce) for each in stages]
        none = [0.0] * (len(stages) - 1)
        makespan = simulate("gpipe", times, self._micro_batches, none).makespan
        return makespan + max(each.update for each in stages)


class ForwardOnly:
    """Without training: a state is (sum, slowest); the bound is exact."""

    def __init__(self, micro_batches: int) -> None:
        self._micro_batches = micro_batches

    nothing: State = (0.0, 0.0)

    def before(self, after: State, stage: Times, behind: int) -> State:
        """Return the state with a stage in front."""
        return after[0] + stage.forward, max(after[1], stage.forward)

    def least(self, state: State) -> float:
        """Return what the micro-batches take at least."""
        return state[0] + (self._micro_batches - 1) * state[1]

    def waited(self, arriving: float, returning: float) -> float:
        """Return what a stage waits of a micro-batch: nothing comes back."""
        return arriving

    def most(self, below: float, total: float, behind: int) -> float:
        """Return what a stage may take."""
        return below / self._micro_batches

    def exact(self, stages: Sequence[Times]) -> float:
        """Return what the micro-batches take."""
        state = self.nothing
        for behind, stage in enumerate(reversed(stages)):
            state = self.before(state, stage, behind)
        return self.least(state)


def bounds_of(workload: Workload) -> Bounds:
    """Return the bounds of a workload's schedule; PlanError where the search knows none."""
    if not workload.training:
        return ForwardOnly(workload.micro_batches)
    if workload.schedule == "1f1b":
        return OneForwardOneBackward(workload.micro_batches)
    if workload.schedule == "gpipe":
        return AllForwardAllBackward(workload.micro_batches)
    raise PlanError(
        f"plans are searched for 1f1b and gpipe, not for {workload.schedule}; plan for 1f1b and "
        "simulate the plan under the other schedule"
    )


def times_of(cost: StageCost, arriving: float, returning: float) -> Times:
    """Return the seconds of a stage that waits for what arrives from both neighbours.

    A stage asks for a tensor when it has nothing else to do, so the hop is not hidden behind work.
    """
    return Times(cost.forward + arriving, cost.backward + returning, cost.reduce, cost.update)
