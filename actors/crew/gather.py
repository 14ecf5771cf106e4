"""One command to many ranks: wait for all answers with a deadline, and name the rank that broke."""

import time
from collections.abc import Mapping, Set
from concurrent.futures import FIRST_EXCEPTION, wait
from typing import Any, Protocol

from actors.calls import Answer
from actors.crew.crew import Commanded
from moe.errors import DeadlineExceeded, RankDied, RankLost, RaymoeError
from moe.planning.plan.seats import Seat

GRACE_SECONDS, LOOK_SECONDS = 2.0, 0.05
"""A rank that died is known by then, where its neighbours were the first to fail; a look each."""


class Beats(Protocol):
    """What looks after the ranks during a long wait."""

    every: float
    """Seconds from one look to the next."""

    def beat(self) -> None:
        """Look; raise where the wait should end."""


def gather(
    crew: Commanded, answers: Mapping[Seat, Answer], doing: str, seconds: float
) -> list[Any]:
    """Return the answers in their order, once all are there.

    The first failure ends the wait, whichever rank it comes from. A rank that died is named before
    neighbours that only noticed. DeadlineExceeded names the ranks that are late.
    """
    if not complete(crew, answers, doing, seconds):
        raise cause(crew, answers, doing)
    return [answer.result() for answer in answers.values()]


def complete(
    crew: Commanded,
    answers: Mapping[Seat, Answer],
    doing: str,
    seconds: float,
    beats: Beats | None = None,
) -> bool:
    """Wait until all answers are there; False as soon as one is an error.

    DeadlineExceeded names the ranks that are late; ``beats`` may end a long wait before.
    """
    deadline = time.monotonic() + seconds
    waiting: Set[Answer] = set(answers.values())
    while waiting:
        left = max(deadline - time.monotonic(), 0.0)
        longest = left if beats is None else min(left, beats.every)
        done, waiting = wait(waiting, longest, FIRST_EXCEPTION)
        if any(answer.exception() is not None for answer in done):
            return False
        if waiting and time.monotonic() >= deadline:
            raise _late(crew, answers, doing, seconds)
        if waiting and beats is not None:
            beats.beat()
    return True


def cause(crew: Commanded, answers: Mapping[Seat, Answer], doing: str) -> RaymoeError:
    """Return the failure to report: a death, then an error of its own, then a lost neighbour.

    Neighbours may be the first to fail, so a death gets a short time to become known.
    """
    deadline = time.monotonic() + GRACE_SECONDS
    while not _dead(crew, answers) and time.monotonic() < deadline:
        waiting = wait(answers.values(), LOOK_SECONDS).not_done
        if not waiting and not crew.lost():
            deadline = min(deadline, time.monotonic() + LOOK_SECONDS)
    for seat, how in _dead(crew, answers).items():
        return RankDied(f"rank {crew.seats.rank(seat)} died during {doing}: {how}")
    failures = _failures(answers).values()
    own = [error for error in failures if not isinstance(error, RankLost)]
    return next(iter([*own, *failures]))


def _late(
    crew: Commanded, answers: Mapping[Seat, Answer], doing: str, seconds: float
) -> DeadlineExceeded:
    late = [crew.seats.rank(seat) for seat, answer in answers.items() if not answer.done()]
    return DeadlineExceeded(
        f"ranks {late} did not finish {doing} within {seconds:g} s; look at their logs, "
        "or raise the deadline in the [cluster] section"
    )


def _dead(crew: Commanded, answers: Mapping[Seat, Answer]) -> dict[Seat, str]:
    """Return who has died: those whose answer says so, then others that the crew knows of."""
    found = {
        seat: str(error)
        for seat, error in _failures(answers).items()
        if isinstance(error, RankDied)
    }
    return found | {seat: how for seat, how in crew.lost().items() if seat not in found}


def _failures(answers: Mapping[Seat, Answer]) -> dict[Seat, RaymoeError]:
    """Return the errors that have come so far."""
    errors = {seat: each.exception() for seat, each in answers.items() if each.done()}
    return {seat: error for seat, error in errors.items() if isinstance(error, RaymoeError)}
