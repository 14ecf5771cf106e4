"""What somebody wants a living run to be planned as, and the plan that is."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from actors.crew.nodes.filling import finds_places
from actors.crew.nodes.nodes import rooms
from actors.crew.nodes.room import Room
from actors.engine.training import TrainingEngine
from actors.step.replicas import check_step
from cluster.probe import nodes_of_ray
from cluster.watch import ask
from moe.checkpoint.training import SaveContext
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.config.run.elastic import Shrink
from moe.errors import ConfigError, PlanError
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.planning.policy.growing import more_replicas
from moe.planning.policy.shrinking import fewer_replicas
from pipelines.planning.probing import Findings
from pipelines.planning.run_work import workload
from pipelines.planning.shrinking import fewer_stages
from pipelines.training.run_plan import devices

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """One of three: a number of replicas, a plan, or a number of nodes to be planned over."""

    replicas: int | None = None
    plan: Plan | None = None
    nodes: int | None = None

    def __post_init__(self) -> None:
        given = [each for each in (self.replicas, self.plan, self.nodes) if each is not None]
        if len(given) != 1:
            raise ConfigError(
                f"{len(given)} of --replicas, --plan and --nodes were given; give one of them"
            )
        for option, count in (("--replicas", self.replicas), ("--nodes", self.nodes)):
            if count is not None and count < 1:
                raise ConfigError(f"{option} is {count}; give a number from 1 on")


@dataclass(frozen=True, slots=True)
class Present:
    """A run as it is when a wish is met.

    ``there`` are all devices of the cluster; ``nodes`` the names of those that the run is on.
    """

    run: RunConfig
    config: ModelConfig
    sequence_length: int
    plan: Plan
    there: Inventory
    nodes: Sequence[str]


def wished(wish: Wish, present: Present) -> Plan:
    """Return the plan that meets a wish; PlanError where there is none.

    Whether the cluster has room is known once its processes are started.
    """
    plan = _wished(wish, present)
    plan.check_model(present.config)
    check_step(plan, present.run.train.schedule, present.run.train.micro_batches)
    if plan == present.plan:
        raise PlanError("the run has this plan already; wish for another")
    return plan


def _wished(wish: Wish, present: Present) -> Plan:
    if wish.plan is not None:
        return wish.plan
    if wish.replicas is not None:
        if wish.replicas <= present.plan.replicas:
            return present.plan.of_replicas(wish.replicas)
        return more_replicas(present.plan, wish.replicas, present.there)
    assert wish.nodes is not None
    return over(present, _some_nodes(present, wish.nodes))


def over(present: Present, left: Inventory) -> Plan:
    """Return the best plan over some devices with as many of the replicas as fit there."""
    run, plan = present.run, present.plan
    for replicas in range(plan.replicas, 0, -1):
        work = workload(run, present.sequence_length, left, plan.replicas)
        found = fewer_stages(present.config, plan, work, left, replicas)
        if found is not None:
            return found[0]
    raise PlanError(
        f"no plan of gangs of {plan.gang_size} fits the {len(left.devices)} devices asked for; "
        "give more nodes, or a plan by --plan"
    )


def _some_nodes(present: Present, count: int) -> Inventory:
    """Return the devices of so many nodes: those that the run is on, then others."""
    by_node = dict[str, list[Device]]()
    for device in present.there.devices:
        by_node.setdefault(device.node, []).append(device)
    if count > len(by_node):
        raise PlanError(
            f"asked for {count} nodes of {len(by_node)} that have devices; give fewer, or add nodes"
        )
    chosen = sorted(by_node, key=lambda node: (node not in present.nodes, node))[:count]
    devices = tuple(device for node in chosen for device in by_node[node])
    return replace(present.there, devices=devices)


def present(
    context: SaveContext, sequence_length: int, engine: TrainingEngine, found: Findings
) -> Present:
    """Return a run as it is, on the nodes of the cluster that nobody told to leave."""
    ids = {node.id: node.name for node in nodes_of_ray()}
    nodes = sorted({ids[each] for each in engine.nodes.values() if each in ids})
    there, going = devices(context.run, found), {ids.get(each) for each in ask().deadlines}
    if staying := tuple(device for device in there.devices if device.node not in going):
        there = replace(there, devices=staying)
    return Present(context.run, context.config, sequence_length, engine.plan, there, nodes)


def smaller(
    how: Shrink,
    gone: frozenset[Seat],
    present: Present,
    asked: Callable[[], Sequence[Room]] = rooms,
) -> Plan | None:
    """Return a plan over what is left without some seats; None where there is none.

    Where all seats are gone, the rooms that are ``asked`` for say how many replicas can start.
    """
    train = present.run.train
    try:
        if how == "stages":
            plan: Plan | None = over(present, present.there)
        elif gone.issuperset(present.plan.seats):
            plan = _with_room(present.plan, asked())
        else:
            shrunk = fewer_replicas(present.plan, gone)
            plan = None if shrunk is None else shrunk.plan
        if plan is not None:
            check_step(plan, train.schedule, train.micro_batches)
    except PlanError as error:
        logger.warning("no plan of fewer %s: %s", how, error)
        return None
    return plan


def _with_room(plan: Plan, rooms: Sequence[Room]) -> Plan | None:
    """Return a plan with as many replicas, fewer than it has, as find places now."""
    fewer = (plan.of_replicas(count) for count in range(plan.replicas - 1, 0, -1))
    return next((each for each in fewer if finds_places(each, {}, rooms)), None)
