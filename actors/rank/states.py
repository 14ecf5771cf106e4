"""The states of a rank: without weights, built, and joined in an epoch. Values.

    Empty --build--> Built --join--> Joined --leave--> Built

A state holds what is there in it and nothing else, so no command finds half of what it needs.
"""

from dataclasses import dataclass

from actors.epochs.groups import Groups
from actors.rank.share import LoadedShare
from actors.state.saver import RankSaver


@dataclass(frozen=True, slots=True)
class Empty:
    """A rank that has just started: it has no weights."""

    epoch: int = 0

    def left(self) -> "Empty":
        """Return this state: the rank is in no epoch."""
        return self


@dataclass(frozen=True, slots=True)
class Built:
    """A rank with its share, in no epoch; ``epoch`` is the last that it was in, 0 before the first.

    ``saver`` is that of the last epoch; the next takes over its memory.
    """

    share: LoadedShare
    epoch: int = 0
    saver: RankSaver | None = None

    def left(self) -> "Built":
        """Return this state: the rank is in no epoch."""
        return self


@dataclass(frozen=True, slots=True)
class Joined:
    """A rank in the process groups of an epoch; ``saver`` is None where it only serves."""

    share: LoadedShare
    epoch: int
    groups: Groups
    saver: RankSaver | None

    def left(self) -> Built:
        """Return the state after the rank has left the epoch."""
        return Built(self.share, self.epoch, self.saver)


State = Empty | Built | Joined
