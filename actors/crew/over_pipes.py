"""A crew of plain processes on this machine, one for each rank, commanded through pipes."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import wait
from copy import copy
from typing import Any, Self

from actors.calls import Answer, failed
from actors.crew.process import MakeRank, RankProcess
from actors.rank.rank import Rank
from moe.errors import LaunchError
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat, Seats

HERE = ("here",)


class PipeCrew:
    """Processes by seat: the first has rank 0. They live as long as this process at most.

    ``nodes`` are names: all processes are on this machine. Gangs are dealt to them in turn, so that
    what an engine does about nodes can be seen without a cluster.
    """

    def __init__(
        self,
        seats: Seats,
        processes: Sequence[RankProcess],
        make: MakeRank = Rank,
        nodes: Sequence[str] = HERE,
    ) -> None:
        self._seats = seats
        self._processes = dict(zip(seats, processes, strict=True))
        self._started = [*processes]
        self._make = make
        self._open = list(nodes)
        self._nodes: dict[Seat, str] = {}
        self._house(seats)

    @classmethod
    def start(cls, seats: Seats, nodes: Sequence[str] = HERE) -> "PipeCrew":
        """Start a process for every seat."""
        return cls(seats, [RankProcess(rank) for rank in range(len(seats))], nodes=nodes)

    @property
    def seats(self) -> Seats:
        """The seats of the plan."""
        return self._seats

    def tell(self, seat: Seat, method: str, *arguments: Any) -> Answer:
        """Give one rank a command and return its answer to come."""
        return self._processes[seat].tell(method, *arguments)

    def lost(self) -> Mapping[Seat, str]:
        """Return the ranks whose processes have ended, and how."""
        ends = {seat: process.end for seat, process in self._processes.items()}
        return {seat: end for seat, end in ends.items() if end is not None}

    def nodes(self) -> Mapping[Seat, str]:
        """Return the name of the node of each seat."""
        return {seat: self._nodes[seat] for seat in self._seats}

    def kill(self, seat: Seat) -> None:
        """End the process of a rank with SIGKILL, also one that hangs."""
        self._processes[seat].kill()

    def lose(self, node: str) -> None:
        """End all processes of a node and start no more there, as if it had left a cluster."""
        self._open.remove(node)
        for seat, own in self._nodes.items():
            if own == node:
                self._processes[seat].kill()

    def replace(self, seats: Iterable[Seat], seconds: float) -> None:
        """Start new processes on some seats; those of a lost node go to another."""
        wanted = [seat for seat in self._seats if seat in {*seats}]
        for seat in wanted:
            if seat in self._processes:
                self._processes[seat].kill()
        self._house(wanted)
        started = {seat: RankProcess(self._seats.rank(seat), self._make) for seat in wanted}
        self._started += started.values()
        answers = [process.tell("status") for process in started.values()]
        if wait(answers, seconds).not_done or any(map(failed, answers)):
            for process in started.values():
                process.kill()
            raise LaunchError(f"{len(started)} processes did not all start within {seconds:g} s")
        self._processes |= started

    def becoming(self, plan: Plan, stays: Mapping[Seat, Seat], seconds: float) -> Self:
        """Return a crew for another plan, in which some processes sit on other seats."""
        crew = copy(self)
        crew._seats = plan.seats
        crew._processes = {new: self._processes[old] for new, old in stays.items()}
        crew._nodes = {new: self._nodes[old] for new, old in stays.items()}
        try:
            crew.replace([seat for seat in plan.seats if seat not in stays], seconds)
        except BaseException:
            crew.leave_to(self)
            raise
        return crew

    def leave_to(self, other: Self) -> None:
        """Kill the processes of this crew that another crew does not have."""
        kept = {*other._processes.values()}
        for process in self._processes.values():
            if process not in kept:
                process.kill()

    def want(self, seats: Collection[Seat]) -> None:
        """Do nothing: there is nobody to ask for a node."""

    def warm(self, count: int) -> None:
        """Do nothing: every process is forked from a server that has imported all."""

    def spares(self) -> int:
        """Return 0: a process is started where one is needed."""
        return 0

    def end(self) -> None:
        """Kill every process and wait until all are gone."""
        for process in self._started:
            process.kill()

    def _house(self, seats: Iterable[Seat]) -> None:
        """Give each seat a node that is there: that of its gang, or the one of fewest gangs."""
        for seat in seats:
            gang = [each for each in self._seats.gang_of(seat) if each in self._nodes]
            own = [self._nodes[each] for each in gang if self._nodes[each] in self._open]
            if not own and not self._open:
                raise LaunchError(f"there is no node for {seat}; all were lost")
            self._nodes[seat] = own[0] if own else min(self._open, key=self._gangs().__getitem__)

    def _gangs(self) -> Counter[str]:
        """Return how many gangs are on each node."""
        places = {(seat.replica, seat.stage, node) for seat, node in self._nodes.items()}
        return Counter(node for _, _, node in places)
