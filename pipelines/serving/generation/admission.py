"""The waiting and the running generations, as an immutable value: each change makes a new value.

The value knows no threads, clocks or engines. Its owner decides when to start the next generation
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

    When ``closed``, no generation is admitted and none begins.
    """

    capacity: int
    waiting: tuple[T, ...] = ()
    running: tuple[T, ...] = ()
    closed: bool = False

    def admit(self, new: Sequence[T]) -> "Admission[T]":
        """Queue all of the generations or none; raises Overloaded if the queue cannot hold all of
        them.
        """
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
        """Move the generation that has waited longest to the running ones; no change if none
        waits.
        """
        if self.closed or not self.waiting:
            return self
        first, *rest = self.waiting
        return replace(self, waiting=tuple(rest), running=(*self.running, first))

    def end(self, generation: T) -> "Admission[T]":
        """Remove a generation that has run."""
        return replace(self, running=tuple(each for each in self.running if each is not generation))

    def forget(self, generation: T) -> "Admission[T]":
        """Remove a waiting generation; a running generation stays until it ends."""
        return replace(self, waiting=tuple(each for each in self.waiting if each is not generation))

    def emptied(self) -> "Admission[T]":
        """Remove all waiting generations."""
        return replace(self, waiting=())

    def close(self) -> "Admission[T]":
        """Admit and begin no further generations."""
        return replace(self, closed=True)
