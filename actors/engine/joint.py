"""The processes that take part in a change of plan, of the old crew and the new one, as one crew.

They go by their numbers in the change: those of the new plan by their ranks there, then those that
only give.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from actors.calls import Answer
from actors.crew.crew import Commanded, Crew
from moe.planning.moves.messages import Part
from moe.planning.plan.seats import Seat, Seats


class Joint(Commanded):
    """Each process in one seat, as many replicas of one rank."""

    def __init__(self, parts: Sequence[Part], old: Crew, new: Crew) -> None:
        self._crews = old, new
        self._places = {
            Seat(part.number, 0, 0): (new, part.new) if part.old is None else (old, part.old)
            for part in parts
        }

    @property
    def seats(self) -> Seats:
        """A seat for each process, in the order of their numbers."""
        return Seats(len(self._places), 1, 1)

    def tell(self, seat: Seat, method: str, *arguments: Any) -> Answer:
        """Give one process a command and return its answer to come."""
        crew, own = self._places[seat]
        assert own is not None
        return crew.tell(own, method, *arguments)

    def lost(self) -> Mapping[Seat, str]:
        """Return the processes that have died so far."""
        ends = {(crew, seat): end for crew in self._crews for seat, end in crew.lost().items()}
        return {seat: ends[place] for seat, place in self._places.items() if place in ends}

    def kill(self, seat: Seat) -> None:
        """End a process with SIGKILL."""
        crew, own = self._places[seat]
        assert own is not None
        crew.kill(own)
