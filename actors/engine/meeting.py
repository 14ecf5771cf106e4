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
from actors.crew.gather import cause, complete, gather
from actors.deadlines import Deadlines
from actors.engine.pulse import Pulse
from actors.engine.statuses import Settling
from actors.epochs.membership import Membership
from actors.state.sources import Source
from moe.config.run import RunConfig
from moe.errors import DeadlineExceeded, RaymoeError
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat

POLL_SECONDS = 0.1
ABORT_SECONDS = 2.0
"""A rank that answers leaves its groups in milliseconds; for one that hangs nobody waits longer."""


class Meeting:
    """All ranks of a run; ``epoch`` is the last that this driver has begun or found.

    Holds nothing that the ranks could not tell another meeting, so a driver that dies is replaced
    by one that meets the same ranks.
    """

    def __init__(self, run: str, plan: Plan, crew: Crew, deadlines: Deadlines) -> None:
        self.plan = plan
        self.deadlines = deadlines
        self.epoch = 0
        self.crew = crew
        self._run = run
        self._pulse = Pulse(crew, deadlines.hang)

    def tell(
        self, method: str, *arguments: Any, seats: Iterable[Seat] | None = None
    ) -> dict[Seat, Answer]:
        """Give ranks the same command, all unless ``seats`` says which, and return the answers."""
        return {seat: self.crew.tell(seat, method, *arguments) for seat in seats or self.crew.seats}

    def tell_each(self, method: str, arguments: Mapping[Seat, Any]) -> dict[Seat, Answer]:
        """Give ranks the same command, each with an argument of its own."""
        return {seat: self.crew.tell(seat, method, own) for seat, own in arguments.items()}

    def gather(self, answers: Mapping[Seat, Answer], doing: str, seconds: float) -> list[Any]:
        """Wait for answers to a command in which ranks work together.

        Where one fails, hangs or is late, every rank of the run leaves its epoch at once, so that
        nobody waits for it in vain.
        """
        try:
            done = complete(self.crew, answers, doing, seconds, self._watching(doing))
        except RaymoeError:
            self.abort()
            raise
        if not done:
            self.abort()
            raise cause(self.crew, answers, doing)
        return [answer.result() for answer in answers.values()]

    def status(self, seconds: float | None = None) -> list[RankStatus]:
        """Return what every rank holds now, also while a step runs."""
        return self._ask("status", seconds)

    def start(self, source: Source, sequence_length: int, run: RunConfig | None) -> None:
        """Build every rank from a source and begin the first epoch; on failure end all ranks."""
        try:
            self.plan.check_model(source.config())
            answers = {
                seat: self.crew.tell(
                    seat, "build", BuildCommand(self.plan, seat, sequence_length, run), source
                )
                for seat in self.crew.seats
            }
            self.gather(answers, "building", self.deadlines.launch)
            self.begin()
        except BaseException:
            self.end()
            raise

    def begin(self) -> None:
        """Have all ranks meet under the next epoch; rank 0 opens the store where they do."""
        self.epoch += 1
        seats, seconds = self.crew.seats, self.deadlines.group
        first = seats.seat(0)
        opened = {first: self.crew.tell(first, "open_store", seconds)}
        ((host, port),) = gather(self.crew, opened, "opening the store", seconds)
        homes = self.plan.homes
        memberships = {
            seat: Membership(self._run, self.epoch, seat, seats, homes, host, port, seconds)
            for seat in seats
        }
        answers = self.tell_each("join", memberships)
        self.gather(answers, f"joining epoch {self.epoch}", self.deadlines.launch)

    def statuses(self) -> dict[Seat, RankStatus]:
        """Return what every rank that lives and answers holds now, also while a step runs."""
        answers = self.tell("status")
        wait(answers.values(), self.deadlines.hang)
        return _statuses(answers)

    def settle(self) -> None:
        """Let ranks end what they do.

        A step that all ranks are in is finished. Other ranks in a step wait for those that are not,
        whose driver died before it had commanded them: their step is given up.
        """
        settling = Settling(time.monotonic(), self.deadlines.group)
        while settling.waits(list(self.statuses().values()), time.monotonic()):
            time.sleep(POLL_SECONDS)

    def look(self) -> dict[Seat, RankStatus]:
        """Have every rank that lives leave its epoch and end what it does; tell how each stands.

        A rank that does not answer is killed, for others may wait for it, and gloo cannot be told
        to give up a wait for a process that lives. One that answers and has not ended what it does
        long after every message has, hangs as well.
        """
        self.abort()
        answers, killed = self.tell("settled"), set[Seat]()
        deadline = time.monotonic() + self.deadlines.group + ABORT_SECONDS
        while pending := {seat for seat, answer in answers.items() if not answer.done()} - killed:
            late = pending if time.monotonic() > deadline else pending & {*self._pulse.hung()}
            for seat in late:
                self.crew.kill(seat)
            killed |= late
            wait([answers[seat] for seat in pending - late], self._pulse.every)
            self._pulse.beat()
        return _statuses(answers)

    def abort(self) -> None:
        """Make every rank drop its process groups, under whatever it does.

        Returns when they have; for those that are known to hang nobody waits.
        """
        answers, hung = self.tell("abort"), {*self._pulse.hung()}
        wait([answers[seat] for seat in answers if seat not in hung], ABORT_SECONDS)

    def _watching(self, doing: str) -> "_Watching":
        return _Watching(self._pulse, self.crew, doing)

    def end(self) -> None:
        """End every rank."""
        self.crew.end()

    def _ask(self, method: str, seconds: float | None = None) -> list[RankStatus]:
        """Ask every rank for its status; a late answer disturbs nobody's work."""
        deadline = self.deadlines.group if seconds is None else seconds
        return gather(self.crew, self.tell(method), f"the answer to {method}", deadline)


class _Watching:
    """Ends the wait for a command when a rank hangs."""

    def __init__(self, pulse: Pulse, crew: Crew, doing: str) -> None:
        self.every = pulse.every
        self._pulse = pulse
        self._crew = crew
        self._doing = doing

    def beat(self) -> None:
        """Raise DeadlineExceeded where a rank has not answered for too long; else ask again."""
        hung = [self._crew.seats.rank(seat) for seat in self._pulse.hung()]
        if hung:
            raise DeadlineExceeded(
                f"ranks {hung} have not answered for {self._pulse.seconds:g} s during "
                f"{self._doing}; their processes hang, or their nodes are gone"
            )
        self._pulse.beat()


def _statuses(answers: Mapping[Seat, Answer]) -> dict[Seat, RankStatus]:
    """Return the statuses of those that have answered."""
    return {
        seat: answer.result()
        for seat, answer in answers.items()
        if answer.done() and answer.exception() is None
    }
