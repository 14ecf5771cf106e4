"""Ranks that work on commands together: told, waited for, watched, and freed where one fails."""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import wait
from typing import Any, Generic, TypeVar

from actors.calls import Answer
from actors.commands import RankStatus
from actors.crew.crew import Commanded
from actors.crew.gather import cause, complete
from actors.deadlines import Deadlines
from actors.engine.pulse import Pulse
from moe.errors import DeadlineExceeded, RaymoeError
from moe.planning.plan.seats import Seat

ABORT_SECONDS = 2.0
"""A rank that answers leaves its groups in milliseconds; for one that hangs nobody waits longer."""

Ranks = TypeVar("Ranks", bound=Commanded)


class Party(Generic[Ranks]):
    """Some ranks, of one plan or of two, that are commanded together."""

    def __init__(self, crew: Ranks, deadlines: Deadlines) -> None:
        self.crew = crew
        self.deadlines = deadlines
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
            done = self._complete(answers, doing, seconds)
        except RaymoeError:
            self.abort()
            raise
        if not done:
            self.abort()
            raise cause(self.crew, answers, doing)
        return [answer.result() for answer in answers.values()]

    def ask(self, answers: Mapping[Seat, Answer], doing: str, seconds: float) -> list[Any]:
        """Wait for answers for which no rank waits for another.

        One that fails, hangs or is late disturbs nobody's work.
        """
        if not self._complete(answers, doing, seconds):
            raise cause(self.crew, answers, doing)
        return [answer.result() for answer in answers.values()]

    def statuses(self) -> dict[Seat, RankStatus]:
        """Return what every rank that lives and answers holds now, also while a step runs."""
        answers = self.tell("status")
        wait(answers.values(), self.deadlines.hang)
        return _statuses(answers)

    def look(self) -> dict[Seat, RankStatus]:
        """Have every rank that lives leave its epoch and end what it does; tell how each stands.

        A rank that does not answer is killed, for others may wait for it, and gloo cannot be told
        to give up a wait for a process that lives. One that answers and has not ended what it does
        long after every message has, hangs as well.
        """
        killed = self.end_hung()
        self.abort()
        answers = self.tell("settled")
        deadline = time.monotonic() + self.deadlines.group + ABORT_SECONDS
        while pending := {seat for seat, answer in answers.items() if not answer.done()} - killed:
            late = pending if time.monotonic() > deadline else pending & {*self._pulse.hung()}
            for seat in late:
                self.crew.kill(seat)
            killed |= late
            wait([answers[seat] for seat in pending - late], self._pulse.every)
            self._pulse.beat()
        return _statuses(answers)

    def end_hung(self) -> set[Seat]:
        """Kill the ranks that have not answered for too long, for which others may wait."""
        hung = {*self._pulse.hung()}
        for seat in hung:
            self.crew.kill(seat)
        return hung

    def abort(self) -> None:
        """Make every rank drop its process groups, under whatever it does.

        Returns when they have; for those that are known to hang nobody waits.
        """
        answers, hung = self.tell("abort"), {*self._pulse.hung()}
        wait([answers[seat] for seat in answers if seat not in hung], ABORT_SECONDS)

    def _complete(self, answers: Mapping[Seat, Answer], doing: str, seconds: float) -> bool:
        watching = _Watching(self._pulse, self.crew, doing)
        return complete(self.crew, answers, doing, seconds, watching)


class _Watching:
    """Ends the wait for a command when a rank hangs."""

    def __init__(self, pulse: Pulse, crew: Commanded, doing: str) -> None:
        self.every = pulse.every
        self._pulse = pulse
        self._crew = crew
        self._doing = doing

    def beat(self) -> None:
        """Raise DeadlineExceeded where a rank has not answered for too long; else ask again."""
        hung = [self._crew.seats.rank(seat) for seat in self._pulse.hung()]
        if hung:
            raise DeadlineExceeded(_silence(hung, self._pulse.seconds, self._doing))
        self._pulse.beat()


def _silence(ranks: list[int], seconds: float, doing: str) -> str:
    if len(ranks) == 1:
        who, why = f"rank {ranks[0]} has", "its process hangs, or its node is gone"
    else:
        who = f"ranks {', '.join(map(str, ranks))} have"
        why = "their processes hang, or their nodes are gone"
    return f"{who} not answered for {seconds:g} s during {doing}; {why}"


def _statuses(answers: Mapping[Seat, Answer]) -> dict[Seat, RankStatus]:
    """Return the statuses of those that have answered."""
    return {
        seat: answer.result()
        for seat, answer in answers.items()
        if answer.done() and answer.exception() is None
    }
