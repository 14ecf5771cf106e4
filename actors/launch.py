"""A plan to placement groups and live actors; undone whole if any part fails.

Every gang has a placement group of its own, because placement groups cannot grow. Actors and groups
of a run are found again by name. A detached run outlives the process that launched it and ends with
``remove``; otherwise its actors end with their owner.
"""

import time
from collections.abc import Sequence
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError
from ray.util import list_named_actors, placement_group_table
from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.stage import CONTROL, FILES, StageActor
from moe.errors import ClusterError, LaunchError
from moe.planning.devices.inventory import CPU
from moe.planning.plan import Plan, RankPlan

Actors = tuple[ActorHandle[StageActor], ...]


def launch(run: str, plan: Plan, detached: bool, seconds: float) -> Actors:
    """Start the actors of a plan within ``seconds``, or leave nothing behind."""
    check_room(plan)
    deadline = time.monotonic() + seconds
    try:
        groups = [_reserve(run, plan, stage, detached) for stage in range(len(plan.stages))]
        for stage, group in enumerate(groups):
            _await_group(plan, stage, group, deadline)
        actors = tuple(_start(run, plan, rank, groups, detached) for rank in range(plan.ranks))
        _await_actors(actors, deadline)
    except BaseException:
        remove(run)
        raise
    return actors


def find(run: str, ranks: int) -> Actors | None:
    """Return the living actors of a run in rank order, or None unless all are there."""
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
    for name in _group_names(run):
        _remove_group(name)
    deadline = time.monotonic() + seconds
    while running(run) or _group_names(run):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"the actors of {run} did not end within {seconds:g} s; look at the Ray dashboard, "
                f"then try `raymoe stop {run}`"
            )
        time.sleep(0.05)


def check_room(plan: Plan) -> None:
    """Raise LaunchError at once where the cluster, even idle, is too small for the plan."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    wanted: dict[str, float] = {}
    for rank in range(plan.ranks):
        for name, amount in bundle(plan.rank(rank)).items():
            wanted[name] = wanted.get(name, 0.0) + amount
            largest = max((node.get(name, 0.0) for node in alive), default=0.0)
            if amount > largest:
                raise LaunchError(
                    f"rank {rank} needs {amount:g} {name} on one node but the largest node has "
                    f"{largest:g}; make the plan for this cluster with `raymoe plan --ray`"
                )
    for name, amount in wanted.items():
        found = sum(node.get(name, 0.0) for node in alive)
        if amount > found:
            raise LaunchError(
                f"the plan needs {amount:g} {name} for its {plan.ranks} ranks but the cluster has "
                f"{found:g}; use fewer stages or a smaller gang, or add nodes"
            )


def bundle(rank: RankPlan) -> dict[str, float]:
    """Return the resources one rank reserves; a GPU is one of the plan's kind."""
    resources = {"CPU": float(rank.threads)}
    if rank.kind == CPU:
        return resources
    return resources | {"GPU": 1.0, f"accelerator_type:{rank.kind}": 0.001}


def actor_name(run: str, rank: int) -> str:
    """Return the name under which a rank is found."""
    return f"{run}/rank-{rank}"


def _reserve(run: str, plan: Plan, stage: int, detached: bool) -> PlacementGroup:
    group: PlacementGroup = placement_group(
        [bundle(rank) for rank in plan.stages[stage].ranks],
        strategy="PACK",
        name=f"{run}/stage-{stage}",
        lifetime="detached" if detached else None,
    )
    return group


def _await_group(plan: Plan, stage: int, group: PlacementGroup, deadline: float) -> None:
    if not group.wait(max(deadline - time.monotonic(), 0.1)):
        raise LaunchError(
            f"stage {stage} found no place for {group.bundle_specs} in time; the cluster has "
            f"{_free()} free; wait for other work to end, add nodes, or raise "
            "cluster.launch_seconds"
        )


def _start(
    run: str, plan: Plan, rank: int, groups: Sequence[PlacementGroup], detached: bool
) -> ActorHandle[StageActor]:
    stage, member = divmod(rank, plan.gang_size)
    resources = bundle(plan.rank(rank))
    handle = (
        _remote(StageActor)
        .options(
            name=actor_name(run, rank),
            lifetime="detached" if detached else None,
            num_cpus=resources["CPU"],
            num_gpus=resources.get("GPU", 0.0),
            max_restarts=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(groups[stage], member),
        )
        .remote(rank)
    )
    return cast("ActorHandle[StageActor]", handle)


def _remote(actor: type[StageActor]) -> Any:
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
    except RayError as error:
        raise LaunchError(f"an actor died while starting: {error}") from error


def _kill(name: str) -> None:
    try:
        ray.kill(ray.get_actor(name), no_restart=True)
    except ValueError:
        return


def _remove_group(name: str) -> None:
    try:
        remove_placement_group(get_placement_group(name))
    except ValueError:
        return


def _group_names(run: str) -> list[str]:
    table = placement_group_table()
    return [
        group["name"]
        for group in table.values()
        if group["name"].startswith(f"{run}/stage-") and group["state"] != "REMOVED"
    ]


def _free() -> str:
    available = ray.available_resources()  # type: ignore[no-untyped-call]
    return ", ".join(f"{available.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
