"""The ranks of a run as the engine reaches them, whatever carries commands and answers."""

from collections.abc import Mapping
from typing import Any, Protocol

from actors.calls import Answer
from moe.planning.plan.seats import Seat, Seats


class Crew(Protocol):
    """One rank on every seat of a plan.

    Commands are the public methods of ``actors.rank.rank.Rank``. Commands to one rank run in the
    order in which they are told, except those that ``actors.rank.queues`` sets apart. Every crew
    passes the same tests, tests/crews.py.
    """

    @property
    def seats(self) -> Seats:
        """The seats; the engine goes through them for every command to all ranks."""

    def tell(self, seat: Seat, method: str, *arguments: Any) -> Answer:
        """Give one rank a command and return its answer to come; never wait.

        The engine calls this for everything it wants of a rank. The answer fails with the
        RaymoeError that the rank raised, with RankLost for any other error, and with RankDied
        within a second where the rank's process ends, or had ended before.
        """

    def lost(self) -> Mapping[Seat, str]:
        """Return the ranks that have died so far, each with how it ended; never wait.

        The engine calls this when a command has failed, to name the cause before its effects. A
        death is known within a second, whether or not a command was under way.
        """

    def end(self) -> None:
        """End every rank and give back what it held; return when all are gone.

        The engine calls this once, at the end of a run, or where its ranks could not be built.
        """
