"""The goodput that the simulator predicts for what really happened to a run.

A run (a soak, a day in production) records when it lost which ranks and when it stood still for
another reason; its pauses are measured. The simulator then plays the same events and decides about
each as the run did. What it says and what the run measured should agree within a few points: if
they do not, one of them is wrong about how the run recovers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from moe.errors import PlanError
from moe.planning.failures.goodput import Goodput
from moe.planning.failures.recovery import LivingActors, Saves
from moe.planning.failures.simulate import simulate_run
from moe.planning.failures.traces import Event, Trace


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened to a run, so many seconds after it began to train.

    ``lost`` are global ranks whose processes were replaced; ranks lost in one moment are one
    happening. ``idle_seconds`` is time without training that is no recovery: until a rank that hung
    counted as lost; or, with no rank lost, a resize or a move off a node.
    """

    seconds: float
    lost: tuple[int, ...] = ()
    idle_seconds: float = 0.0

    def __post_init__(self) -> None:
        times = (self.seconds, self.idle_seconds)
        if not all(0 <= each < math.inf for each in times):
            raise PlanError(
                f"a happening at {self.seconds} s with {self.idle_seconds} s idle; give finite "
                "times from 0 on"
            )


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run takes, in seconds as measured, undisturbed where nothing else is said.

    ``heal_seconds``: from the loss, or from when a rank that hung counts as lost, to the beginning
    of the first step that is replayed; ``restore_seconds``: the same where the run starts from a
    checkpoint. ``nodes``: the node of each rank, which says who holds whose copy.
    """

    step_seconds: float
    heal_seconds: float
    restore_seconds: float
    copies: Saves
    checkpoints: Saves
    nodes: tuple[str, ...]


def predicted_goodput(
    happened: Sequence[Happening], horizon_seconds: float, measured: Measured
) -> Goodput:
    """Return the use of the time that is predicted for what happened until the end of the run.

    Time that the run stood still is taken out before the rest is played, and counts as recovery.
    """
    events = sorted(happened, key=lambda each: each.seconds)
    idle = [(each.seconds, each.seconds + each.idle_seconds) for each in events]
    lost = [each for each in events if each.lost]
    trace = Trace(
        tuple(_event(each, each.seconds - _covered(idle, each.seconds)) for each in lost),
        horizon_seconds - _covered(idle, horizon_seconds),
    )
    policy, devices = _policy(measured), len(measured.nodes)
    played, undisturbed = (
        simulate_run(each, policy, lambda _: measured.step_seconds, devices, nodes=measured.nodes)
        for each in (trace, Trace((), horizon_seconds))
    )
    return replace(
        played,
        horizon_seconds=horizon_seconds,
        undisturbed_steps=undisturbed.steps,
        recovery_seconds=played.recovery_seconds + _covered(idle, horizon_seconds),
    )


def _policy(measured: Measured) -> LivingActors:
    """Return a run whose lost ranks always have room, with the pauses measured as a whole."""
    step = measured.step_seconds
    return LivingActors(
        copies=_followed(measured.copies, step),
        checkpoints=_followed(measured.checkpoints, step),
        detection_seconds=0.0,
        regroup_seconds=0.0,
        rebuild_seconds=measured.heal_seconds,
        transfer_seconds=0.0,
        restart_seconds=measured.restore_seconds,
        elastic=False,
    )


def _followed(saves: Saves, step_seconds: float) -> Saves:
    """Return saves of which each waits for the one before it."""
    least = math.ceil(saves.hidden_seconds / step_seconds)
    return replace(saves, every_steps=max(saves.every_steps, least))


def _event(happening: Happening, seconds: float) -> Event:
    count = len(happening.lost)
    return Event(seconds, count, count, happening.lost * 2)


def _covered(spans: Sequence[tuple[float, float]], end: float) -> float:
    """Return how many seconds before ``end`` are in any of the spans, which begin in order."""
    return sum(stop - start for start, stop in _apart(spans, end))


def _apart(spans: Sequence[tuple[float, float]], end: float) -> Iterator[tuple[float, float]]:
    """Yield the parts of spans before ``end`` that no span before them covers."""
    reached = 0.0
    for start, stop in spans:
        first, last = max(start, reached), min(stop, end)
        if first < last:
            yield first, last
        reached = max(reached, stop)
