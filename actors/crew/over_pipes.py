"""A crew of plain processes on this machine, one for each rank, commanded through pipes."""

from collections.abc import Mapping, Sequence
from typing import Any

from actors.calls import Answer
from actors.crew.process import RankProcess
from moe.planning.plan.seats import Seat, Seats


class PipeCrew:
    """Processes by seat: the first has rank 0. They live as long as this process at most."""

    def __init__(self, seats: Seats, processes: Sequence[RankProcess]) -> None:
        self._seats = seats
        self._processes = dict(zip(seats, processes, strict=True))

    @classmethod
    def start(cls, seats: Seats) -> "PipeCrew":
        """Start a process for every seat."""
        return cls(seats, [RankProcess(rank) for rank in range(len(seats))])

    @property
    def seats(self) -> Seats:
        """The seats, each with a process."""
        return self._seats

    def tell(self, seat: Seat, method: str, *arguments: Any) -> Answer:
        """Give one rank a command and return its answer to come."""
        return self._processes[seat].tell(method, *arguments)

    def lost(self) -> Mapping[Seat, str]:
        """Return the ranks whose processes have ended, and how."""
        ends = {seat: process.end for seat, process in self._processes.items()}
        return {seat: end for seat, end in ends.items() if end is not None}

    def end(self) -> None:
        """Kill every process and wait until all are gone."""
        for process in self._processes.values():
            process.kill()
