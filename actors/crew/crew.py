"""The ranks of a run as the engine reaches them, whatever carries commands and answers."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol, Self

from actors.calls import Answer
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat, Seats


class Commanded(Protocol):
    """Ranks on seats, which are told commands and may die.

    Commands are the public methods of ``actors.rank.rank.Rank``. Commands to one rank run in the
    order in which they are told, except those that ``actors.rank.queues`` sets apart.
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

    def kill(self, seat: Seat) -> None:
        """End the process of a rank with SIGKILL; never wait.

        The engine calls this for a rank that hangs; its death is known as that of any other.
        """


class Crew(Commanded, Protocol):
    """One rank on every seat of a plan; a seat whose rank has died is lost until it is replaced.

    Every crew passes the same tests, tests/crews.py.
    """

    def nodes(self) -> Mapping[Seat, str]:
        """Return the node of each seat; the engine calls this to decide who holds whose copy.

        A lost seat has the node that it was on, or is left out where nobody knows.
        """

    def replace(self, seats: Iterable[Seat], seconds: float) -> None:
        """Start new processes on some seats, all at once, and end what is left of the old.

        The engine calls this to heal. They go where the old ones were; where that node is gone, to
        another with room, all of a gang to one. ClusterBusy or LaunchError where there is none,
        LaunchError where they do not start within ``seconds``, RankLost where one dies meanwhile:
        the seats stay lost then.
        """

    def becoming(self, plan: Plan, stays: Mapping[Seat, Seat], seconds: float) -> Self:
        """Return a crew for another plan, beside this one; both can be told commands.

        ``stays`` gives for a seat of the new plan the seat of this crew whose process it takes
        over; every other seat gets a new process. The engine calls this to begin a change of plan.
        It raises as ``replace`` does, and leaves nothing of the new crew then.
        """

    def leave_to(self, other: Self) -> None:
        """End the processes of this crew that another crew does not have; return when all are gone.

        The engine calls this to end a change of plan: of the old crew when the new one goes on, of
        the new crew when the change is given up. This crew is of no use after that.
        """

    def want(self, seats: Collection[Seat]) -> None:
        """Ask the cluster for room for those of some seats that have none; never wait.

        The engine calls this while it can do nothing but wait for room. ``replace`` then refuses
        with ClusterBusy until there is news of it. What was asked for before is asked no more.
        """

    def warm(self, count: int) -> None:
        """Keep ``count`` processes on each node to become ranks.

        The engine calls this after every start, since new ranks are taken from among them, and when
        nodes come or go. Never waits.
        """

    def spares(self) -> int:
        """Return how many warm processes are ready now, out of what this process knows.

        The engine calls this after every step. Never waits and asks nobody.
        """

    def end(self) -> None:
        """End every rank and give back what it held; return when all are gone.

        The engine calls this once, at the end of a run, or where its ranks could not be built.
        Nothing of the run is left, also of a change of plan that was under way.
        """
