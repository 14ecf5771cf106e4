"""The cost of failures: plays a trace against a recovery policy.

The clock counts integer nanoseconds, so every second is in exactly one category:

    horizon = useful + slower + lost + recovery + saving + waiting
    effective training time ratio = useful / horizon,   useful = steps kept x undisturbed step

Between events the run is a known line (steps, a stall after each that saves): time is skipped, not
stepped through. To first order, with failures every M seconds and a save of S seconds every I
(Young 1974): ratio = 1 - S/I - (I/2 + recovery)/M, best at I = sqrt(2 S M).
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random

from moe.errors import PlanError
from moe.planning.failures.recovery import POLICIES, LivingActors, Policy, Saves
from moe.planning.failures.traces import Copies, Event, Presence, Trace

NANO = 1_000_000_000
StepSeconds = Callable[[int], float | None]
Steps = Callable[[int], int]


def _nano(seconds: float) -> int:
    return round(seconds * NANO)


@dataclass(frozen=True, slots=True)
class Goodput:
    """The use of the time of a run, in seconds.

    ``slower``: extra time of kept steps, on fewer devices. ``lost``: discarded work, and the step
    that the horizon cut. ``saving``: stalls. ``waiting``: for devices. ``failures``: moments at
    which a device in use was lost; ``restores``: starts from a checkpoint.
    """

    horizon_seconds: float
    steps: int
    undisturbed_steps: int
    failures: int
    restores: int
    useful_seconds: float
    slower_seconds: float
    lost_seconds: float
    recovery_seconds: float
    saving_seconds: float
    waiting_seconds: float

    @property
    def effective_ratio(self) -> float:
        """Effective training time ratio: useful over wall time."""
        return self.useful_seconds / self.horizon_seconds

    @property
    def relative_throughput(self) -> float:
        """Steps over those of the same run, saves included, without events."""
        return self.steps / self.undisturbed_steps if self.undisturbed_steps else 1.0


def simulate_run(
    trace: Trace, policy: Policy, step_seconds: StepSeconds, devices: int, seed: int = 0
) -> Goodput:
    """Play the trace against the policy, from step 0 on ``devices`` devices.

    ``step_seconds`` returns the step time of the best plan on at most the given number of devices,
    None if there is no plan. The run never uses more than ``devices``; more are spares. ``seed``
    draws the lost devices that the trace does not name.
    """
    run = _Run(policy, _nanoseconds(step_seconds), devices, Random(seed))
    for event in trace.events:
        run.advance(_nano(event.seconds))
        run.apply(event)
    return run.finish(_nano(trace.horizon_seconds))


def compare(
    trace: Trace, step_seconds: StepSeconds, devices: int, policies: Mapping[str, Policy] = POLICIES
) -> tuple[tuple[str, Goodput], ...]:
    """Play one trace against each policy."""
    return tuple(
        (name, simulate_run(trace, policy, step_seconds, devices))
        for name, policy in policies.items()
    )


def _nanoseconds(step_seconds: StepSeconds) -> Steps:
    """Return a cached function for the step in nanoseconds; 0 if there is no plan."""

    @cache
    def step(devices: int) -> int:
        seconds = step_seconds(devices) if devices else None
        if seconds is not None and not 1 / NANO <= seconds < math.inf:
            raise PlanError(f"a step on {devices} devices takes {seconds} s; give 1 ns or more")
        return 0 if seconds is None else _nano(seconds)

    return step


def _saves(policy: Policy, full: int) -> tuple[Saves, ...]:
    """Return the saves of a policy in the order of their stalls; PlanError if they overlap."""
    kinds = (*([policy.copies] if isinstance(policy, LivingActors) else []), policy.checkpoints)
    for saves in kinds:
        if _nano(saves.hidden_seconds) > saves.every_steps * full:
            raise PlanError(
                f"a save takes {saves.hidden_seconds} s behind the steps, the next one follows "
                f"after {saves.every_steps} of {full / NANO} s; raise every_steps"
            )
    return kinds


@dataclass(frozen=True, slots=True)
class _Stretch:
    """An undisturbed run from step ``first`` on, in nanoseconds since ``start``."""

    first: int
    start: int
    step: int
    saves: tuple[Saves, ...]

    def left(self, step: int) -> int:
        """Return when a step and its stalls are done."""
        stalls = (
            (step // each.every_steps - self.first // each.every_steps) * _nano(each.stall_seconds)
            for each in self.saves
        )
        return (step - self.first) * self.step + sum(stalls)

    def done(self, step: int) -> int:
        """Return when a step is done, before its stalls."""
        return 0 if step == self.first else self.left(step - 1) + self.step

    def steps(self, elapsed: int) -> int:
        """Return the last step done."""
        steps = range(self.first, self.first + elapsed // self.step + 1)
        return steps[bisect_right(steps, elapsed, key=self.done) - 1]

    def counts(self, kind: int, step: int) -> int:
        """Return when the save after a step counts; stalls come in the order of ``saves``."""
        due = (each for each in self.saves[: kind + 1] if step % each.every_steps == 0)
        stalls = sum(_nano(each.stall_seconds) for each in due)
        return self.done(step) + stalls + _nano(self.saves[kind].hidden_seconds)

    def saved(self, kind: int, elapsed: int) -> int:
        """Return the step of the last save of one kind that counts; ``first`` or less if none
        does.
        """
        every = self.saves[kind].every_steps
        step = self.steps(elapsed) // every * every
        while step > self.first and self.counts(kind, step) > elapsed:
            step -= every
        return step


class _Run:
    """The run as the trace is played: in a stretch, or recovering until ``_ready``, or waiting."""

    def __init__(self, policy: Policy, step_on: Steps, devices: int, random: Random) -> None:
        self._full = step_on(devices) if devices > 0 else 0
        if not self._full:
            raise PlanError(f"no plan runs on all {devices} devices; give a step time for them")
        self._policy, self._step_on, self._devices = policy, step_on, devices
        self._living = policy if isinstance(policy, LivingActors) else None
        self._saves = _saves(policy, self._full)
        self._presence = Presence(devices, random)
        self._copies = Copies(self._living.copy_distance if self._living else 0)
        self._members = tuple(range(devices))
        self._now = self._checkpoint = self._step = 0
        self._stretch: _Stretch | None = _Stretch(0, 0, self._full, self._saves)
        self._ready: int | None = None
        self._grow_at: int | None = None
        self._kept: list[tuple[int, int]] = []  # steps, and nanoseconds of each
        self._failures = self._restores = self._restoring = 0
        self._lost = self._recovery = self._saving = self._waiting = 0

    def advance(self, until: int) -> None:
        """Advance the time, with everything that the run does without events."""
        while True:
            if self._stretch is not None and self._grow_at is not None and self._grow_at <= until:
                self._stop(self._stretch, self._grow_at)
                self._recover(self._now, planned=True)
            elif self._ready is not None and self._ready <= until:
                self._start(self._ready)
            else:
                break
        if self._stretch is None:
            self._pass(until)

    def apply(self, event: Event) -> None:
        """Apply the changes of an event; the time has advanced to the event."""
        now = _nano(event.seconds)
        lost = self._presence.lose(event)
        hit = not lost.isdisjoint(self._members)
        self._failures += hit
        if hit and self._stretch is not None:
            self._stop(self._stretch, now)
        self._copies.lose(lost)
        self._presence.join(event)
        if hit or not self._members:
            self._recover(now, planned=False)
        elif self._stretch is not None:
            self._plan_growth(self._stretch, now)

    def finish(self, end: int) -> Goodput:
        """Return the goodput at the end of the trace."""
        self.advance(end)
        if self._stretch is not None:
            self._stop(self._stretch, end)
        return Goodput(
            horizon_seconds=end / NANO,
            steps=self._step,
            undisturbed_steps=_Stretch(0, 0, self._full, self._saves).steps(end),
            failures=self._failures,
            restores=self._restores,
            useful_seconds=self._step * self._full / NANO,
            slower_seconds=sum(count * (step - self._full) for count, step in self._kept) / NANO,
            lost_seconds=self._lost / NANO,
            recovery_seconds=self._recovery / NANO,
            saving_seconds=self._saving / NANO,
            waiting_seconds=self._waiting / NANO,
        )

    def _pass(self, until: int) -> None:
        """Account for time without a stretch."""
        if self._ready is None:
            self._waiting += until - self._now
        else:
            self._recovery += until - self._now
        self._now = until

    def _start(self, now: int) -> None:
        self._pass(now)
        self._ready = None
        self._restores += self._restoring
        self._copies.resumed(self._members)
        self._stretch = _Stretch(self._step, now, self._step_on(len(self._members)), self._saves)
        self._plan_growth(self._stretch, now)

    def _stop(self, stretch: _Stretch, now: int) -> None:
        """End a stretch: account for its time, note its last copy and its last checkpoint."""
        elapsed = now - stretch.start
        self._step, self._now = stretch.steps(elapsed), now
        count = self._step - stretch.first
        begun = max(0, elapsed - stretch.left(self._step))
        self._kept.append((count, stretch.step))
        self._lost += begun
        self._saving += elapsed - count * stretch.step - begun
        if self._living and elapsed >= _nano(self._living.copies.hidden_seconds):
            self._copies.made(max(stretch.first, stretch.saved(0, elapsed)), self._members)
        saved = stretch.saved(len(self._saves) - 1, elapsed)
        self._checkpoint = saved if saved > stretch.first else self._checkpoint
        self._stretch = self._grow_at = None

    def _recover(self, now: int, planned: bool) -> None:
        """Go back to the newest available state; start or restart the recovery, or wait."""
        self._pass(now)
        copied = self._copies.whole()
        self._roll_back(copied)
        present = tuple(sorted(self._presence.present))
        enough = len(present) == self._devices or self._policy.elastic
        self._members = present if enough and self._step_on(len(present)) else ()
        seconds = self._policy.pause_seconds(planned, copied, self._copies.lack(self._members))
        self._ready = now + _nano(seconds) if self._members else None

    def _roll_back(self, copied: bool) -> None:
        """Undo steps, newest first, down to the copies or to the checkpoint."""
        self._restoring = not copied
        if not copied:
            self._copies.made(0, ())
        to = self._copies.step if copied else self._checkpoint
        while self._step > to:
            count, pace = self._kept.pop()
            undone = min(count, self._step - to)
            if undone < count:
                self._kept.append((count - undone, pace))
            self._step -= undone
            self._lost += undone * pace

    def _plan_growth(self, stretch: _Stretch, now: int) -> None:
        """Set when joined devices enter the run: at the first save after they are built."""
        self._grow_at = None
        there = len(self._presence.present)
        grown = self._policy.elastic and there > len(self._members)
        if not grown or not 0 < self._step_on(there) < stretch.step:
            return
        built = _nano(self._living.rebuild_seconds) if self._living else 0
        every = self._saves[0].every_steps
        last = stretch.saved(0, now - stretch.start + built) // every
        step = max(last, stretch.first // every) * every + every
        self._grow_at = stretch.start + stretch.counts(0, step)
