"""A plan to placement groups and live actors; undone whole if any part fails.

Where every gang goes is decided first (``actors.crew.nodes``), then reserved
(``actors.crew.reservation``). Actors and groups of a run are found again by name. A detached run
outlives the process that launched it and ends with ``remove``; otherwise its actors end with their
owner.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.crew.ending import actor_name, name_taken, remove, running
from actors.crew.nodes.bundles import bundle
from actors.crew.nodes.choice import NodeChoice, choose
from actors.crew.nodes.nodes import rooms
from actors.crew.over_ray import RayCrew
from actors.crew.reservation import groups_of, reserve
from actors.rank.actor import LIFE, RankActor
from actors.rank.queues import THREADS
from moe.errors import ClusterBusy, LaunchError, RankLost
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat, Seats

STALE_SECONDS = 3.0
"""Ray may call busy for so long what was just given back."""


def launch(run: str, plan: Plan, detached: bool, seconds: float) -> RayCrew:
    """Start the actors of all replicas within ``seconds``, or leave nothing behind."""
    if running(run) or groups_of(run):
        raise name_taken(run)
    deadline = time.monotonic() + seconds
    choice = decide(plan)
    try:
        groups = reserve(run, plan, choice, detached)
        actors = [_start(run, plan, seat, groups, detached) for seat in plan.seats]
        _await_actors(actors, deadline)
        return RayCrew(run, plan.seats, actors)
    except BaseException:
        remove(run)
        raise


def decide(plan: Plan) -> NodeChoice:
    """Return where the gangs of a plan go on the cluster as it is now, or say what it lacks."""
    deadline = time.monotonic() + STALE_SECONDS
    while True:
        try:
            return choose(plan, rooms())
        except ClusterBusy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def find(run: str, seats: Seats) -> RayCrew | None:
    """Return the living actors of a run, or None unless there is one for every seat."""
    try:
        actors = [ray.get_actor(actor_name(run, rank)) for rank in range(len(seats))]
    except ValueError:
        return None
    return RayCrew(run, seats, actors)


def _start(
    run: str,
    plan: Plan,
    seat: Seat,
    groups: Mapping[tuple[int, int], PlacementGroup],
    detached: bool,
) -> ActorHandle[RankActor]:
    """Start an actor that takes all of its bundle but the mark of a GPU's kind."""
    own, rank = plan.rank(seat), plan.seats.rank(seat)
    group = groups[seat.replica, seat.stage]
    resources = bundle(own)
    handle = (
        _remote(RankActor)
        .options(
            name=actor_name(run, rank),
            lifetime="detached" if detached else None,
            num_cpus=resources["CPU"],
            num_gpus=resources.get("GPU", 0.0),
            memory=resources.get("memory"),
            resources=dict(own.resources),
            max_restarts=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, seat.member),
        )
        .remote(rank)
    )
    return cast("ActorHandle[RankActor]", handle)


def _remote(actor: type[RankActor]) -> Any:
    """Ray types ``concurrency_groups`` as a decorator alone, which would hide the methods."""
    return ray.remote(concurrency_groups={**THREADS, LIFE: 1})(actor)  # type: ignore[call-overload]


def _await_actors(actors: Sequence[ActorHandle[RankActor]], deadline: float) -> None:
    try:
        ray.get(
            [actor.status.remote() for actor in actors],
            timeout=max(deadline - time.monotonic(), 0.1),
        )
    except GetTimeoutError:
        raise LaunchError(
            f"{len(actors)} actors did not all start in time; look at their logs on the Ray "
            "dashboard, or raise cluster.launch_seconds"
        ) from None
    except ActorDiedError as error:
        raise RankLost(f"an actor died while starting: {error}") from error
    except RayError as error:
        raise LaunchError(f"an actor could not start: {error}") from error
