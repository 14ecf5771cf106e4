"""A run as it lives through events, on the clock of ``moe.planning.failures.stretch``.

What it does after each event is decided by ``moe.planning.policy.decision.decide``, as in a real
run; the policy has the seconds that this takes. The budget of failures is not played.
"""

import math
from collections.abc import Callable, Sequence
from random import Random

from moe.errors import PlanError
from moe.planning.failures.goodput import Goodput
from moe.planning.failures.memory import Memory, seat_of
from moe.planning.failures.recovery import LivingActors, Policy
from moe.planning.failures.stretch import NANO, Stretch, nano, saves_of
from moe.planning.failures.traces import Event, Presence
from moe.planning.policy.boundary import newest_boundary
from moe.planning.policy.decision import (
    Decision,
    GoOn,
    Heal,
    Replan,
    Resize,
    Restore,
    Wait,
    decide,
)
from moe.planning.policy.situation import Limits, Situation

Steps = Callable[[int], int]
"""The nanoseconds of a step on so many devices; 0 where nothing runs on them."""

_LIMITS = {
    elastic: Limits(0, math.inf, "replicas" if elastic else "wait") for elastic in (True, False)
}
"""By whether the run goes on with fewer devices."""


class SimulatedRun:
    """The run as the trace is played: in a stretch, or recovering until ``_ready``, or waiting.

    While it recovers, ``_next`` are the devices that it will be planned on.
    """

    def __init__(
        self, policy: Policy, step_on: Steps, nodes: Sequence[str], random: Random
    ) -> None:
        devices = len(nodes)
        self._full = step_on(devices) if devices > 0 else 0
        if not self._full:
            raise PlanError(f"no plan runs on all {devices} devices; give a step time for them")
        self._policy, self._step_on = policy, step_on
        self._living = policy if isinstance(policy, LivingActors) else None
        self._saves = saves_of(policy, self._full)
        self._presence = Presence(devices, random)
        self._memory = Memory(nodes, self._living is not None)
        self._next = tuple(range(devices))
        self._memory.started(self._next)
        self._now = self._checkpoint = self._step = 0
        self._stretch: Stretch | None = Stretch(0, 0, self._full, self._saves)
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
                self._decide(wish=len(self._presence.present))
            elif self._ready is not None and self._ready <= until:
                self._start(self._ready)
            else:
                break
        if self._stretch is None:
            self._pass(until)

    def apply(self, event: Event) -> None:
        """Apply the changes of an event; the time has advanced to the event."""
        lost = self._presence.lose(event)
        waits = self._stretch is None and self._ready is None
        hit = not waits and not lost.isdisjoint((*self._memory.members, *self._next))
        self._failures += hit
        if hit and self._stretch is not None:
            self._stop(self._stretch, nano(event.seconds))
        self._memory.lose(lost)
        if hit and self._living is None:
            self._memory.clear()
        self._presence.join(event)
        if self._stretch is not None:
            self._plan_growth(self._stretch, nano(event.seconds))
        elif hit or waits:
            self._decide()

    def finish(self, end: int) -> Goodput:
        """Return the goodput at the end of the trace."""
        self.advance(end)
        if self._stretch is not None:
            self._stop(self._stretch, end)
        return Goodput(
            horizon_seconds=end / NANO,
            steps=self._step,
            undisturbed_steps=Stretch(0, 0, self._full, self._saves).steps(end),
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
        self._memory.started(self._next)
        self._stretch = Stretch(self._step, now, self._step_on(len(self._next)), self._saves)
        self._plan_growth(self._stretch, now)

    def _stop(self, stretch: Stretch, now: int) -> None:
        """End a stretch: account for its time, note its last copy and its last checkpoint."""
        elapsed = now - stretch.start
        self._step, self._now = stretch.steps(elapsed), now
        count = self._step - stretch.first
        begun = max(0, elapsed - stretch.left(self._step))
        self._kept.append((count, stretch.step))
        self._lost += begun
        self._saving += elapsed - count * stretch.step - begun
        if self._living and elapsed >= self._saves[0].hidden:
            self._memory.copied(max(stretch.first, stretch.saved(0, elapsed)))
        saved = stretch.saved(len(self._saves) - 1, elapsed)
        self._checkpoint = saved if saved > stretch.first else self._checkpoint
        self._stretch = self._grow_at = None

    def _decide(self, wish: int | None = None) -> None:
        """Ask what to do now, and begin to do it."""
        situation = self._situation(wish)
        self._carry_out(decide(situation), situation)

    def _situation(self, wish: int | None) -> Situation[int]:
        memory = self._memory
        return Situation(
            shape=len(memory.members),
            seats=memory.seats,
            living=memory.standings(self._step),
            limits=_LIMITS[self._policy.elastic],
            holders=memory.holders,
            room=frozenset(map(seat_of, self._presence.present)),
            smaller=lambda _: self._over_what_is_left(),
            checkpoint=self._checkpoint,
            wish=wish,
        )

    def _over_what_is_left(self) -> int | None:
        present = len(self._presence.present)
        return present if self._step_on(present) else None

    def _carry_out(self, decision: Decision[int], situation: Situation[int]) -> None:
        """Go back as far as the decision needs, and go on after its pause."""
        members = self._memory.members
        present = tuple(sorted(self._presence.present))
        stays = isinstance(decision, GoOn | Heal | Restore) and set(members) <= set(present)
        self._next = members if stays else present
        starts = not self._memory.living.issuperset(self._next)
        self._go_back(decision, situation)
        waits = isinstance(decision, Wait)
        pause = nano(self._policy.pause_seconds(decision, starts))
        self._ready = None if waits else self._now + pause

    def _go_back(self, decision: Decision[int], situation: Situation[int]) -> None:
        """Undo the steps that a decision does not keep; where it waits, those lost already."""
        step: int | None = self._step
        match decision:
            case Heal() | Replan():
                step = decision.step
            case Restore():
                step = None
            case Wait():
                boundary = newest_boundary(situation.living, situation.lost)
                step = None if boundary is None else boundary.step
            case Resize() if self._living is None:
                step = None
        self._restoring = step is None
        if step is None:
            self._memory.clear()
        self._undo(self._checkpoint if step is None else step)

    def _undo(self, to: int) -> None:
        """Undo steps, newest first."""
        while self._step > to:
            count, pace = self._kept.pop()
            undone = min(count, self._step - to)
            if undone < count:
                self._kept.append((count - undone, pace))
            self._step -= undone
            self._lost += undone * pace

    def _plan_growth(self, stretch: Stretch, now: int) -> None:
        """Set when joined devices enter the run, once they are built.

        Living actors take them in after a step; other processes restart, at a checkpoint.
        """
        self._grow_at = None
        there = len(self._presence.present)
        grown = self._policy.elastic and there > len(self._memory.members)
        if not grown or not 0 < self._step_on(there) < stretch.step:
            return
        elapsed = now - stretch.start
        if self._living is not None:
            built = elapsed + nano(self._living.rebuild_seconds)
            self._grow_at = stretch.start + stretch.done(stretch.steps(built) + 1)
            return
        every = self._saves[0].every
        last = stretch.saved(0, elapsed) // every
        step = max(last, stretch.first // every) * every + every
        self._grow_at = stretch.start + stretch.counts(0, step)
