"""A run between two events: a known line of steps and stalls, on a clock of nanoseconds.

Integer nanoseconds add up exactly, so no second is counted twice or not at all. Time is skipped and
not stepped through.
"""

from bisect import bisect_right
from dataclasses import dataclass

from moe.errors import PlanError
from moe.planning.failures.recovery import LivingActors, Policy, Saves

NANO = 1_000_000_000


def nano(seconds: float) -> int:
    """Return seconds in nanoseconds."""
    return round(seconds * NANO)


@dataclass(frozen=True, slots=True)
class Saving:
    """A save on the clock: after every so many steps, its stall, how long it then travels."""

    every: int
    stall: int
    hidden: int


def saves_of(policy: Policy, full: int) -> tuple[Saving, ...]:
    """Return the saves of a policy in the order of their stalls; PlanError if they overlap."""
    kinds = (*([policy.copies] if isinstance(policy, LivingActors) else []), policy.checkpoints)
    return tuple(_on_the_clock(saves, full) for saves in kinds)


def _on_the_clock(saves: Saves, full: int) -> Saving:
    hidden = nano(saves.hidden_seconds)
    if hidden > saves.every_steps * full:
        raise PlanError(
            f"a save takes {saves.hidden_seconds} s behind the steps, the next one follows "
            f"after {saves.every_steps} of {full / NANO} s; raise every_steps"
        )
    return Saving(saves.every_steps, nano(saves.stall_seconds), hidden)


@dataclass(frozen=True, slots=True)
class Stretch:
    """An undisturbed run from step ``first`` on, in nanoseconds since ``start``."""

    first: int
    start: int
    step: int
    saves: tuple[Saving, ...]

    def left(self, step: int) -> int:
        """Return when a step and its stalls are done."""
        time = (step - self.first) * self.step
        for each in self.saves:
            time += (step // each.every - self.first // each.every) * each.stall
        return time

    def done(self, step: int) -> int:
        """Return when a step is done, before its stalls."""
        return 0 if step == self.first else self.left(step - 1) + self.step

    def steps(self, elapsed: int) -> int:
        """Return the last step done."""
        steps = range(self.first, self.first + elapsed // self.step + 1)
        return steps[bisect_right(steps, elapsed, key=self.done) - 1]

    def counts(self, kind: int, step: int) -> int:
        """Return when the save after a step counts; stalls come in the order of ``saves``."""
        stalls = sum(each.stall for each in self.saves[: kind + 1] if step % each.every == 0)
        return self.done(step) + stalls + self.saves[kind].hidden

    def saved(self, kind: int, elapsed: int) -> int:
        """Return the step of the last save of one kind that counts; ``first`` or less if none
        does.
        """
        every = self.saves[kind].every
        step = self.steps(elapsed) // every * every
        while step > self.first and self.counts(kind, step) > elapsed:
            step -= every
        return step
