"""The ranks of one plan as one party: commands to all of them, and the epochs in which they meet.

What the answers mean is decided in ``actors.engine.statuses``; here it is done.
"""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import wait
from typing import Any

from actors.calls import Answer
from actors.commands import BuildCommand, RankStatus
from actors.crew.crew import Crew
from actors.crew.gather import gather
from actors.deadlines import Deadlines
from actors.engine.statuses import Settling
from actors.epochs.membership import Membership
from actors.state.sources import Source
from moe.config.run import RunConfig
from moe.errors import RaymoeError
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat

POLL_SECONDS = 0.1


class Meeting:
    """All ranks of a run; ``epoch`` is the last that this driver has begun or found.

    Holds nothing that the ranks could not tell another meeting, so a driver that dies is replaced
    by one that meets the same ranks.
    """

    def __init__(self, run: str, plan: Plan, crew: Crew, deadlines: Deadlines) -> None:
        self.plan = plan
        self.deadlines = deadlines
        self.epoch = 0
        self._run = run
        self._crew = crew

    def tell(
        self, method: str, *arguments: Any, seats: Iterable[Seat] | None = None
    ) -> dict[Seat, Answer]:
        """Give ranks the same command, all unless ``seats`` says which, and return the answers."""
        return {
            seat: self._crew.tell(seat, method, *arguments) for seat in seats or self._crew.seats
        }

    def tell_each(self, method: str, arguments: Mapping[Seat, Any]) -> dict[Seat, Answer]:
        """Give ranks the same command, each with an argument of its own."""
        return {seat: self._crew.tell(seat, method, own) for seat, own in arguments.items()}

    def gather(self, answers: Mapping[Seat, Answer], doing: str, seconds: float) -> list[Any]:
        """Wait for answers to a command in which ranks work together.

        Where one fails or is late, every rank of the run leaves its epoch, so that nobody waits
        for it in vain.
        """
        try:
            return gather(self._crew, answers, doing, seconds)
        except RaymoeError:
            self.abort()
            raise

    def status(self, seconds: float | None = None) -> list[RankStatus]:
        """Return what every rank holds now, also while a step runs."""
        return self._ask("status", seconds)

    def start(self, source: Source, sequence_length: int, run: RunConfig | None) -> None:
        """Build every rank from a source and begin the first epoch; on failure end all ranks."""
        try:
            self.plan.check_model(source.config())
            answers = {
                seat: self._crew.tell(
                    seat, "build", BuildCommand(self.plan, seat, sequence_length, run), source
                )
                for seat in self._crew.seats
            }
            self.gather(answers, "building", self.deadlines.launch)
            self.begin()
        except BaseException:
            self.end()
            raise

    def begin(self) -> None:
        """Have all ranks meet under the next epoch; rank 0 opens the store where they do."""
        self.epoch += 1
        seats, seconds = self._crew.seats, self.deadlines.group
        first = seats.seat(0)
        opened = {first: self._crew.tell(first, "open_store", seconds)}
        ((host, port),) = gather(self._crew, opened, "opening the store", seconds)
        homes = self.plan.homes
        memberships = {
            seat: Membership(self._run, self.epoch, seat, seats, homes, host, port, seconds)
            for seat in seats
        }
        answers = self.tell_each("join", memberships)
        self.gather(answers, f"joining epoch {self.epoch}", self.deadlines.launch)

    def settle(self, statuses: list[RankStatus]) -> list[RankStatus]:
        """Have all ranks end what they do and leave the epoch; return their statuses after that.

        A step that all ranks are in is finished. Other ranks in a step wait for those that are not,
        whose driver died before it had commanded them: their step is given up.
        """
        settling = Settling(time.monotonic(), self.deadlines.group)
        while settling.waits(statuses, time.monotonic()):
            time.sleep(POLL_SECONDS)
            statuses = self.status()
        self.abort()
        return self._ask("settled")

    def abort(self) -> None:
        """Make every rank drop its process groups, under whatever it does."""
        wait(self.tell("abort").values(), self.deadlines.group)

    def end(self) -> None:
        """End every rank."""
        self._crew.end()

    def _ask(self, method: str, seconds: float | None = None) -> list[RankStatus]:
        """Ask every rank for its status; a late answer disturbs nobody's work."""
        deadline = self.deadlines.group if seconds is None else seconds
        return gather(self._crew, self.tell(method), f"the answer to {method}", deadline)
