"""What an actor does that nobody drives: the end of its run, or of itself alone.

Called inside the actor, on a thread of its own. All ranks of a run run out of patience at nearly
the same time; one of them ends the others, so that also reservations without an actor and warm
processes go.
"""

import os
from collections.abc import Mapping
from concurrent.futures import wait
from typing import Literal

import ray

from actors.calls import Answer, failed
from actors.crew.ending import remove
from actors.crew.reservation import actors_of, number_of, reservations_of, run_of
from actors.rank.silence import ORPHANED

ASK_SECONDS = 10.0
"""A rank says in milliseconds how long it was left alone; one that hangs never does."""


End = Literal["run", "rank", "none"]
"""What a rank ends that was left alone: the whole run, itself, or nothing yet."""


def whose_end(number: int, others: Mapping[int, float], seconds: float) -> End:
    """Return what the rank of a number ends, which has been alone for ``seconds``.

    ``others``: for how long each other rank of the run was left alone, by its number. Where all
    were, the lowest number ends the run. Where some are driven, this one was given up by the
    driver.
    """
    if any(silent <= seconds / 2 for silent in others.values()):
        return "rank"
    return "run" if all(number < other for other in others) else "none"


def leave(place: str, seconds: float) -> None:
    """End this process, whose rank sits in ``place`` and has been alone for ``seconds``, with what
    is its own; return where another rank is to do that.
    """
    run, own = run_of(place), str(ray.get_runtime_context().get_actor_name())
    end = whose_end(number_of(own), _silences(run, own), seconds)
    if end == "none":
        return
    if end == "run":
        remove(run, lambda name: name not in (own, place))
    held = reservations_of(run).get(place)
    if held is not None:
        held.give_back()
    os._exit(ORPHANED)


def _silences(run: str, own: str) -> Mapping[int, float]:
    """Return for how long each other rank of a run was left alone, of those that answer."""
    asked = dict[int, Answer]()
    for name in actors_of(run):
        try:
            actor = None if name == own else ray.get_actor(name)
        except ValueError:
            continue  # it ended a moment ago
        if actor is not None:
            asked[number_of(name)] = actor.silence.remote().future()
    wait(asked.values(), ASK_SECONDS)
    said = {n: a.result() for n, a in asked.items() if a.done() and not failed(a)}
    return {number: silent for number, silent in said.items() if silent is not None}
