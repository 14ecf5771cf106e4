"""What a run does next: a pure function of what is known, which the run and the simulator share.

The order of preference, from what costs least to what costs most:

    nothing is wrong     go on; a node that goes is left in time; a wish is met
    ranks are lost       heal, where every rank finds its state of one boundary in memory and room
                         replan over what is left, where there is no room
                         restore from the checkpoint, where the state of a rank is nowhere in memory
                         wait, where nothing can run on what is left, or the run file says so
    too many losses      stop
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

from moe.config.run.elastic import Shrink
from moe.planning.plan.seats import Seat
from moe.planning.policy.boundary import Boundary, newest_boundary, why_none
from moe.planning.policy.situation import Shape, Situation

_SHRINKS: Mapping[Shrink, tuple[Shrink, ...]] = {
    "replicas": ("replicas", "stages"),
    "stages": ("stages", "replicas"),
    "wait": (),
}
"""What is tried where there is no room, in this order."""


@dataclass(frozen=True, slots=True)
class GoOn:
    """Command the next step; where the ranks are not together, under a new epoch."""

    reason: str


@dataclass(frozen=True, slots=True)
class Heal:
    """Replace the lost ranks; all ranks go on from a boundary.

    ``gives`` names for each lost seat who holds its copy of that boundary; it is empty where no
    rank is lost but some must go back. Those of ``ends`` hang and are killed first.
    """

    step: int
    gives: Mapping[Seat, Seat]
    reason: str
    ends: tuple[Seat, ...] = ()


@dataclass(frozen=True, slots=True)
class Replan(Generic[Shape]):
    """Change to a plan over what is left, from a boundary; otherwise as ``Heal``."""

    step: int
    shape: Shape
    gives: Mapping[Seat, Seat]
    reason: str
    ends: tuple[Seat, ...] = ()


@dataclass(frozen=True, slots=True)
class Resize(Generic[Shape]):
    """Change to a plan at the next boundary, with no step lost.

    ``away`` are seats whose processes must not stay, because their nodes go: the plan may be the
    same, with new processes for them elsewhere.
    """

    shape: Shape
    reason: str
    away: frozenset[Seat] = frozenset()


@dataclass(frozen=True, slots=True)
class Restore(Generic[Shape]):
    """Start from the checkpoint of a step, under a plan; 0 is the state that the run began with."""

    step: int
    shape: Shape
    reason: str
    ends: tuple[Seat, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing and look again soon: for an answer of a rank, or for nodes."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the run; its last checkpoint stays."""

    reason: str


Decision = GoOn | Heal | Replan[Shape] | Resize[Shape] | Restore[Shape] | Wait | Stop


def decide(situation: Situation[Shape]) -> Decision[Shape]:
    """Return what the run does next. Every situation has an answer, and no other effect."""
    if silent := situation.unsettled:
        seconds, most = situation.late[silent[0]], situation.limits.hang_seconds
        return Wait(f"{_named(silent)} silent for {seconds:.1f} s; lost after {most:g} s")
    lost = situation.lost
    trouble = bool(lost) or not _in_step(situation)
    if (trouble or not situation.together) and _spent(situation):
        return _stop(situation)
    return _mend(situation, lost) if trouble else _undisturbed(situation)


def _spent(situation: Situation[Shape]) -> bool:
    return situation.failures > situation.limits.max_failures


def _in_step(situation: Situation[Shape]) -> bool:
    """Tell whether the living ranks can do the next step as they stand.

    Where they are together, one may have done a step that another is still commanded to end.
    """
    done = {each.steps_done for each in situation.living.values()}
    apart = max(done) - min(done)
    unharmed = all(each.unharmed for each in situation.living.values())
    return unharmed and apart <= int(situation.together)


def _undisturbed(situation: Situation[Shape]) -> Decision[Shape]:
    """Decide where no rank is lost and all stand together: nodes that go, then wishes."""
    if not situation.together:
        return GoOn("no rank is lost and all stand at one step; they meet again")
    if situation.leaving:
        return _leave(situation)
    if situation.wish is not None and situation.wish != situation.shape:
        return Resize(situation.wish, "another plan is wished for")
    return GoOn("nothing is wrong")


def _leave(situation: Situation[Shape]) -> Decision[Shape]:
    """Decide about seats whose nodes go: away in time, or healed once they are gone."""
    away = frozenset(situation.leaving)
    left, needed = min(situation.leaving.values()), situation.limits.move_seconds
    who = _named(tuple(sorted(away)))
    if left < needed:
        return GoOn(
            f"{who} on a node that goes in {left:.0f} s, too soon to move in {needed:.0f} s"
        )
    if away <= situation.room:
        return Resize(situation.shape, f"{who} moved off a node that goes{_in(left)}", away)
    if found := _smaller(situation):
        how, shape = found
        return Resize(shape, f"{who} on a node that goes, no room elsewhere: fewer {how}", away)
    return GoOn(f"{who} on a node that goes{_in(left)}, and nowhere else to go")


def _in(seconds: float) -> str:
    """Return when a node goes in words; nothing where nobody said when."""
    return f" in {seconds:.0f} s" if seconds < math.inf else ""


def _mend(situation: Situation[Shape], lost: tuple[Seat, ...]) -> Decision[Shape]:
    """Decide where ranks are lost, or do not stand together."""
    who = f"{_named(lost)} lost" if lost else "a step failed half way"
    boundary = newest_boundary(situation.living, lost)
    if situation.room.issuperset(lost):
        return _in_place(situation, boundary, who)
    if found := _smaller(situation):
        how, shape = found
        return _over_what_is_left(situation, boundary, shape, f"{who}, no room: fewer {how}")
    if situation.limits.on_shrink == "wait":
        return Wait(f"{who}, no room; the run waits for nodes")
    return Wait(f"{who}, and no plan fits what is left; the run waits for nodes")


def _in_place(situation: Situation[Shape], boundary: Boundary | None, who: str) -> Decision[Shape]:
    if boundary is None:
        return _restore(situation, situation.shape)
    step, ends = boundary.step, situation.hung
    return Heal(step, boundary.gives, f"{who}; all go on from step {step}", ends)


def _over_what_is_left(
    situation: Situation[Shape], boundary: Boundary | None, shape: Shape, why: str
) -> Decision[Shape]:
    if boundary is None:
        return _restore(situation, shape)
    step, ends = boundary.step, situation.hung
    return Replan(step, shape, boundary.gives, f"{why}, from step {step}", ends)


def _restore(situation: Situation[Shape], shape: Shape) -> Restore[Shape]:
    step = situation.checkpoint
    back = f"back to the checkpoint of step {step}" if step else "back to the beginning"
    return Restore(step, shape, f"{why_none(situation)}: {back}", situation.hung)


def _smaller(situation: Situation[Shape]) -> tuple[Shrink, Shape] | None:
    """Return the first way to shrink that leaves a plan, in the order that the run file prefers."""
    for how in _SHRINKS[situation.limits.on_shrink]:
        shape = situation.smaller(how)
        if shape is not None:
            return how, shape
    return None


def _stop(situation: Situation[Shape]) -> Stop:
    most = situation.limits.max_failures
    return Stop(
        f"{situation.failures} losses within the time of the budget, which allows {most}; see why "
        "ranks are lost, or raise elastic.max_failures"
    )


def _named(seats: tuple[Seat, ...]) -> str:
    """Return a few seats in words."""
    more = f" and {len(seats) - 2} more" if len(seats) > 2 else ""
    return ", ".join(str(seat) for seat in seats[:2]) + more
