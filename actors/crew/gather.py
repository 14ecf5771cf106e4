"""One command to many ranks: wait for all answers with a deadline, and name the rank that broke."""

from collections.abc import Mapping
from concurrent.futures import as_completed, wait
from typing import Any

from actors.calls import Answer
from actors.crew.crew import Crew
from moe.errors import DeadlineExceeded, RankDied, RankLost, RaymoeError
from moe.planning.plan.seats import Seat

GRACE_SECONDS = 2.0
"""A rank that died is known by now, where its neighbours were the first to fail."""


def gather(crew: Crew, answers: Mapping[Seat, Answer], doing: str, seconds: float) -> list[Any]:
    """Return the answers in their order, once all are there.

    The first failure ends the wait, whichever rank it comes from. A rank that died is named before
    neighbours that only noticed: these get a short grace, so that the cause is reported and not an
    effect. DeadlineExceeded names the ranks that are late.
    """
    try:
        done = as_completed(answers.values(), seconds)
        broken = any(answer.exception() is not None for answer in done)
    except TimeoutError:
        late = [crew.seats.rank(seat) for seat, answer in answers.items() if not answer.done()]
        raise DeadlineExceeded(
            f"ranks {late} did not finish {doing} within {seconds:g} s; look at their logs, "
            "or raise the deadline in the [cluster] section"
        ) from None
    if broken:
        raise _cause(crew, answers, doing)
    return [answer.result() for answer in answers.values()]


def _cause(crew: Crew, answers: Mapping[Seat, Answer], doing: str) -> RaymoeError:
    """Return the failure to report: a death, then an error of its own, then a lost neighbour."""
    if not _dead(crew, answers):
        wait(answers.values(), GRACE_SECONDS)
    for seat, how in _dead(crew, answers).items():
        return RankDied(f"rank {crew.seats.rank(seat)} died during {doing}: {how}")
    failures = _failures(answers).values()
    own = [error for error in failures if not isinstance(error, RankLost)]
    return next(iter([*own, *failures]))


def _dead(crew: Crew, answers: Mapping[Seat, Answer]) -> dict[Seat, str]:
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
