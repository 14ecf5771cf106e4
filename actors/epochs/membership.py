"""Where one rank sits in one epoch of a run, and where the ranks of the epoch meet. A value."""

from dataclasses import dataclass, replace

from moe.planning.plan.seats import Seat, Seats


@dataclass(frozen=True, slots=True)
class Membership:
    """One rank's seat among the ``seats`` of one epoch of a run.

    ``homes`` is the stage of every chunk, along the model. ``host`` and ``port`` lead to the store
    of rank 0. ``seconds`` bounds every wait of a process group.
    """

    run: str
    epoch: int
    seat: Seat
    seats: Seats
    homes: tuple[int, ...]
    host: str
    port: int
    seconds: float

    @property
    def name(self) -> str:
        """Prefix of the names of this epoch's process groups."""
        return f"{self.run}/epoch-{self.epoch}"

    @property
    def rank(self) -> int:
        """Global rank of this seat: its rank in the group of all."""
        return self.seats.rank(self.seat)

    @property
    def ends(self) -> tuple[int, int]:
        """The stages with the embedding and with the head."""
        return self.homes[0], self.homes[-1]

    def at(self, **other: int) -> int:
        """Return the global rank of another seat: ``at(stage=2)`` differs in the stage alone."""
        return self.seats.rank(replace(self.seat, **other))
