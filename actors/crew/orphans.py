"""What an actor does that nobody drives: the end of its run, or of itself alone.

Called inside the actor, on a thread of its own. All ranks of a run run out of patience at nearly
the same time; one of them ends the others, so that also reservations without an actor and warm
processes go.
"""

import os
from collections.abc import Mapping
from concurrent.futures import wait

import ray

from actors.calls import Answer, failed
from actors.crew.ending import remove
from actors.crew.reservation import actors_of, number_of, reservations_of, run_of
from actors.rank.rank import ORPHANED

ASK_SECONDS = 10.0
"""A rank says in milliseconds how long it was left alone; one that hangs never does."""


def leave(place: str, seconds: float) -> None:
    """End this process, whose rank sits in ``place`` and has been alone for ``seconds``.

    Where all ranks of the run are alone, the one of the lowest number ends the whole run; the
    others return, and look again later. Where some are driven, as after this one was given up, it
    ends itself and gives back its reservation.
    """
    run, own = run_of(place), str(ray.get_runtime_context().get_actor_name())
    silences = _silences(run, own)
    if all(silent > seconds / 2 for silent in silences.values()):
        if any(number_of(name) < number_of(own) for name in silences):
            return
        remove(run, lambda name: name not in (own, place))
    held = reservations_of(run).get(place)
    if held is not None:
        held.give_back()
    os._exit(ORPHANED)


def _silences(run: str, own: str) -> Mapping[str, float]:
    """Return for how long each other rank of a run was left alone, of those that answer."""
    asked = dict[str, Answer]()
    for name in actors_of(run):
        try:
            actor = None if name == own else ray.get_actor(name)
        except ValueError:
            continue  # it ended a moment ago
        if actor is not None:
            asked[name] = actor.silence.remote().future()
    wait(asked.values(), ASK_SECONDS)
    said = {n: a.result() for n, a in asked.items() if a.done() and not failed(a)}
    return {name: silent for name, silent in said.items() if silent is not None}
