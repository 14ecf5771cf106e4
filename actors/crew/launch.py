"""A plan to placement groups and live actors; undone whole if any part fails.

Where every gang goes is decided first (``actors.crew.nodes``), then reserved
(``actors.crew.reservation``). Actors and groups of a run are found again by name. A detached run
outlives the process that launched it and ends with ``remove``; otherwise its actors end with their
owner.
"""

import time
from dataclasses import replace
from functools import partial

from actors.crew.ending import name_taken, remove, running
from actors.crew.nodes.bundles import gangs
from actors.crew.nodes.choice import NodeChoice, choose
from actors.crew.over_ray import RayCrew
from actors.crew.patience import AT_ONCE, Patience, awaited, decided
from actors.crew.reservation import Reservation, groups_of, nodes_of_runs, reserve
from actors.crew.roster import follow, roster
from actors.crew.spares import Spares
from actors.crew.starting import Starting
from moe.errors import ClusterBusy
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat

FIND_SECONDS = 10.0
"""A rank says where it sits in milliseconds; one that hangs never does."""


def launch(
    run: str,
    plan: Plan,
    detached: bool,
    seconds: float,
    patience: Patience = AT_ONCE,
    apart_from: str | None = None,
) -> RayCrew:
    """Start the actors of all replicas within ``seconds``, or leave nothing behind.

    Where the cluster has no room it waits for that first, as long as ``patience`` lasts. The actors
    stay apart from the runs whose names begin with ``apart_from``, as replicas do from each other.
    """
    if running(run) or groups_of(run):
        raise name_taken(run)
    try:
        places = _reserved(run, plan, detached, patience, apart_from)
        deadline = time.monotonic() + seconds
        spares = Spares(run, detached)
        lives = Starting(plan, detached, deadline, spares).lives(places)
        return RayCrew(run, plan, lives, detached, spares)
    except BaseException:
        remove(run)
        raise


def decide(plan: Plan) -> NodeChoice:
    """Return where the gangs of a plan go on the cluster as it is now, or say what it lacks."""
    return decided(partial(choose, plan))


def _reserved(
    run: str, plan: Plan, detached: bool, patience: Patience, apart_from: str | None
) -> dict[Seat, Reservation]:
    """Reserve what a plan asks for, once there is room.

    Of runs that choose the same node at one moment, the one whose name comes first keeps it; the
    others know of it then, and choose again.
    """
    known, until = _others(run, apart_from), time.monotonic() + patience.seconds
    while True:
        where = partial(choose, plan, others=[*known.values()])
        left = replace(patience, seconds=max(until - time.monotonic(), 0.0))
        choice = awaited(run, gangs(plan), where, left)
        nodes = {seat: choice.nodes[seat.replica][seat.stage] for seat in plan.seats}
        try:
            places = reserve(run, plan, nodes, detached)
        except ClusterBusy:
            if time.monotonic() > until:
                raise
            continue
        before, known = known, _others(run, apart_from)
        met = {other for other, there in known.items() if there & {*nodes.values()}}
        if not any(other < run for other in met - before.keys()):
            return places
        for place in places.values():
            place.give_back()


def _others(run: str, prefix: str | None) -> dict[str, set[str]]:
    """Return the nodes of each other run whose name begins so."""
    found = {} if prefix is None else nodes_of_runs(prefix)
    return {name: nodes for name, nodes in found.items() if name != run}


def find(run: str, plan: Plan, seconds: float = FIND_SECONDS) -> RayCrew | None:
    """Return the living actors of a detached run as a crew; None where none sits in the plan.

    Actors that a driver left in a change of plan go on under ``plan``.
    Seats without an actor are lost. Actors that say no seat, or none within ``seconds``, are not of
    the crew; ``RayCrew.end_others`` ends them.
    """
    follow(run, plan, seconds)
    lives = {seat: life for seat, life in roster(run, seconds).items() if seat in plan.seats}
    return RayCrew(run, plan, lives, detached=True) if lives else None
