"""Which life sits on which seat: asked of the living actors of a run."""

from collections.abc import Iterable
from concurrent.futures import wait
from typing import Any, cast

import ray
from ray.actor import ActorHandle

from actors.calls import Answer
from actors.commands import BuildCommand, RankStatus
from actors.crew.life import RankLife
from actors.crew.reservation import actors_of, number_of, reservations_of
from actors.rank.actor import RankActor
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat


def roster(run: str, seconds: float) -> dict[Seat, RankLife]:
    """Return the life on each seat of a run, as the actors say within ``seconds``."""
    places, found = reservations_of(run), _handles(run)
    where: list[Answer] = [actor.whereabouts.remote().future() for _, actor in found]
    status: list[Answer] = [actor.status.remote().future() for _, actor in found]
    wait([*where, *status], seconds)
    sitting = [_said(each) for each in where]
    said = [
        _said(answer) if place is not None and place.place in places else None
        for place, answer in zip(sitting, status, strict=True)
    ]
    return {
        seat: RankLife(*found[number], places[sitting[number].place], sitting[number])
        for seat, number in seated(said).items()
    }


def follow(run: str, plan: Plan, seconds: float) -> None:
    """Have all living actors of a run be of a plan, where a driver left some between two.

    Those that do not answer within ``seconds`` are left as they are.
    """
    actors = [actor for _, actor in _handles(run)]
    said = [_said(answer) for answer in _told(actors, "status", seconds=seconds)]
    if any(status is not None and (status.between or status.staged) for status in said):
        _told(actors, "abort", seconds=seconds)
        _told(actors, "follow", plan, seconds=seconds)


def _told(
    actors: Iterable[ActorHandle[RankActor]], method: str, *arguments: Any, seconds: float
) -> list[Answer]:
    """Give actors a command, and wait for their answers so long."""
    answers = [getattr(actor, method).remote(*arguments).future() for actor in actors]
    wait(answers, seconds)
    return answers


def built_as(run: str, seconds: float) -> BuildCommand | None:
    """Return what a rank was built as that stands under the plan of its run, of those that say so
    within ``seconds``; None where none was built.
    """
    found = _handles(run)
    status: list[Answer] = [actor.status.remote().future() for _, actor in found]
    built: list[Answer] = [actor.built_as.remote().future() for _, actor in found]
    wait([*status, *built], seconds)
    return holding(zip(map(_said, status), map(_said, built), strict=True))


def holding(
    said: Iterable[tuple[RankStatus | None, BuildCommand | None]],
) -> BuildCommand | None:
    """Return which of the commands that ranks were built from has the plan that holds.

    Where a driver died in a change of plan, some ranks are of one plan and some of the other. One
    that has taken a new share and keeps its old one can go back, so the others tell, those of the
    newest epoch: they were never of the new plan, or have dropped the old one because the new one
    holds. Where all can go back, all are of the new plan.
    """
    told = [(status, command) for status, command in said if status and command]
    settled = [each for each in told if not each[0].between] or told
    return max(settled, key=lambda each: each[0].epoch, default=(None, None))[1]


def seated(statuses: Iterable[RankStatus | None]) -> dict[Seat, int]:
    """Return by seat the number of the status that speaks for it; None has no seat.

    Two may say one seat, where a run was between two plans when its driver died: the one in the
    newer epoch holds it. One that joined none was still to come.
    """
    found: dict[Seat, tuple[int, int]] = {}
    for number, status in enumerate(statuses):
        if status is not None and status.seat is not None:
            before = found.get(status.seat)
            if before is None or status.epoch > before[0]:
                found[status.seat] = status.epoch, number
    return {seat: number for seat, (_, number) in found.items()}


def _handles(run: str) -> list[tuple[str, "ActorHandle[RankActor]"]]:
    """Return the actors of a run with their names, in the order of their numbers."""
    found = []
    for name in sorted(actors_of(run), key=number_of):
        try:
            found.append((name, cast("ActorHandle[RankActor]", ray.get_actor(name))))
        except ValueError:
            continue  # it died a moment ago
    return found


def _said(answer: Answer) -> Any:
    """Return what an answer says; None where it says nothing, or not yet."""
    return answer.result() if answer.done() and answer.exception() is None else None
