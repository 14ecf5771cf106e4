"""Which generations wait and which run: a value, changed by making the next one.

It knows no threads, clocks or engines. Whoever holds it decides when to take the next generation
and how many may run together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pipelines.serving.refusals import Overloaded, Unavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Admission(Generic[T]):
    """Generations in order of arrival; at most ``capacity`` wait or run at once.

    After ``closed`` nothing is admitted and nothing begins.
    """

    capacity: int
    waiting: tuple[T, ...] = ()
    running: tuple[T, ...] = ()
    closed: bool = False

    def admit(self, new: Sequence[T]) -> "Admission[T]":
        """Let generations wait, all or none; raises Overloaded where there is no room for all."""
        if self.closed:
            raise Unavailable("the server is shutting down")
        held = len(self.waiting) + len(self.running)
        if held + len(new) > self.capacity:
            raise Overloaded(
                f"{held} generations are queued or running and the server holds {self.capacity}, "
                f"so {len(new)} more do not fit; try again in a moment",
                code="queue_full",
            )
        return replace(self, waiting=(*self.waiting, *new))

    def begin(self) -> "Admission[T]":
        """Let the generation that has waited longest run; nothing changes where none waits."""
        if self.closed or not self.waiting:
            return self
        first, *rest = self.waiting
        return replace(self, waiting=tuple(rest), running=(*self.running, first))

    def end(self, generation: T) -> "Admission[T]":
        """Take a generation that has run off the list."""
        return replace(self, running=tuple(each for each in self.running if each is not generation))

    def forget(self, generation: T) -> "Admission[T]":
        """Give up the turn of a generation that waits; one that runs stays until it ends."""
        return replace(self, waiting=tuple(each for each in self.waiting if each is not generation))

    def emptied(self) -> "Admission[T]":
        """Let nothing wait any longer."""
        return replace(self, waiting=())

    def close(self) -> "Admission[T]":
        """Admit and begin nothing from now on."""
        return replace(self, closed=True)
