"""A plan to placement groups and live actors; undone whole if any part fails.

Where every gang goes is decided first (``actors.crew.nodes``), then reserved
(``actors.crew.reservation``). Actors and groups of a run are found again by name. A detached run
outlives the process that launched it and ends with ``remove``; otherwise its actors end with their
owner.
"""

import time
from collections.abc import Sequence
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError
from ray.util import list_named_actors
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.crew.nodes.bundles import bundle
from actors.crew.nodes.nodes import rooms
from actors.crew.nodes.placement import Placement, place
from actors.crew.reservation import groups_of, release, reserve
from actors.rank.actor import CONTROL, FILES, RankActor
from moe.errors import ClusterBusy, ClusterError, LaunchError, RankLost
from moe.planning.plan.plan import Plan

Actors = tuple[ActorHandle[RankActor], ...]

STALE_SECONDS = 3.0
"""Ray may call busy for so long what was just given back."""


def launch(run: str, plan: Plan, detached: bool, seconds: float) -> Actors:
    """Start the actors of all replicas within ``seconds``, or leave nothing behind.

    They are in the order of their global ranks: replica by replica, each in the order of the plan.
    """
    if running(run) or groups_of(run):
        raise name_taken(run)
    deadline = time.monotonic() + seconds
    placement = decide(plan)
    try:
        groups = reserve(run, plan, placement, detached)
        actors = tuple(
            _start(run, plan, rank, groups, detached) for rank in range(plan.replicas * plan.ranks)
        )
        _await_actors(actors, deadline)
    except BaseException:
        remove(run)
        raise
    return actors


def name_taken(run: str) -> LaunchError:
    """Return what a second run of the same name is told."""
    return LaunchError(
        f"a run named {run} is on this cluster already; end it with `raymoe stop {run}` or choose "
        "another name"
    )


def decide(plan: Plan) -> Placement:
    """Return where the gangs of a plan go on the cluster as it is now, or say what it lacks."""
    deadline = time.monotonic() + STALE_SECONDS
    while True:
        try:
            return place(plan, rooms())
        except ClusterBusy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def find(run: str, ranks: int) -> Actors | None:
    """Return the living actors of a run by global rank, or None unless so many are there."""
    try:
        return tuple(ray.get_actor(actor_name(run, rank)) for rank in range(ranks))
    except ValueError:
        return None


def running(run: str) -> bool:
    """Tell whether any actor of a run is on the cluster."""
    return any(name.startswith(f"{run}/rank-") for name in list_named_actors())


def remove(run: str, seconds: float = 30.0) -> None:
    """End every actor and placement group of a run and wait until they are gone."""
    for name in list_named_actors():
        if name.startswith(f"{run}/rank-"):
            _kill(name)
    release(run)
    deadline = time.monotonic() + seconds
    while running(run) or groups_of(run):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"the actors of {run} did not end within {seconds:g} s; look at the Ray dashboard, "
                f"then try `raymoe stop {run}`"
            )
        time.sleep(0.05)


def actor_name(run: str, rank: int) -> str:
    """Return the name under which a global rank is found."""
    return f"{run}/rank-{rank}"


def _start(
    run: str, plan: Plan, rank: int, groups: Sequence[PlacementGroup], detached: bool
) -> ActorHandle[RankActor]:
    """Start an actor that takes all of its bundle but the mark of a GPU's kind."""
    gang, member = divmod(rank, plan.gang_size)
    own = plan.rank(rank % plan.ranks)
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
            scheduling_strategy=PlacementGroupSchedulingStrategy(groups[gang], member),
        )
        .remote(rank)
    )
    return cast("ActorHandle[RankActor]", handle)


def _remote(actor: type[RankActor]) -> Any:
    """Ray types ``concurrency_groups`` as a decorator alone, which would hide the methods."""
    return ray.remote(concurrency_groups={CONTROL: 2, FILES: 1})(actor)  # type: ignore[call-overload]


def _await_actors(actors: Actors, deadline: float) -> None:
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


def _kill(name: str) -> None:
    try:
        ray.kill(ray.get_actor(name), no_restart=True)
    except ValueError:
        return
