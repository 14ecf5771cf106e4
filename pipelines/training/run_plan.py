"""The plan of a run: read from its file, or made for the present cluster and what it measured."""

from dataclasses import replace

from actors.crew.launch import decide
from actors.step.replicas import check_step
from cluster.nodes import cautions, inventory
from cluster.probe import nodes_of_ray
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.errors import ConfigError, LaunchError, PlanError
from moe.planning.counts.workload import OF_PRECISION
from moe.planning.devices.inventory import CPU, Device, Inventory
from moe.planning.devices.inventory_file import load_profile
from moe.planning.plan.file import load_plan
from moe.planning.plan.plan import Plan
from moe.planning.search.make import make_replicas
from moe.planning.search.pins import Pins
from pipelines.planning.probing import Findings, probed
from pipelines.planning.run_work import workload
from pipelines.planning.wanted import Wanted

NOTHING = Findings()
"""Nothing was measured."""

_PLENTY_BYTES = 2**60
"""Bytes of memory of an imagined device that can hold any share."""


def measured(run: RunConfig, config: ModelConfig, sequence_length: int) -> Findings:
    """Return what a plan for this cluster is made from: the run's profile, or what nodes measure.

    A run with a plan of its own needs nothing.
    """
    if run.plan.path is not None:
        return Findings()
    nodes = nodes_of_ray()
    there, asked = inventory(nodes, run.plan.threads), wanted(run, config, sequence_length)
    profile = run.plan.profile
    found = probed(there, nodes, asked) if profile is None else Findings(*load_profile(profile))
    assumed = found.applied(there, nodes).cautions(OF_PRECISION[run.train.precision].sixteen_bit)
    return replace(found, notes=(*cautions(nodes), *found.notes, *assumed))


def plan_for(
    run: RunConfig,
    config: ModelConfig,
    sequence_length: int,
    replicas: int | None = None,
    found: Findings = NOTHING,
) -> Plan:
    """Return the plan of a run with ``replicas`` replicas; None takes the largest number
    allowed. One that is made is made for the cluster as it is now, from what was ``found`` of it.
    """
    there = devices(run, found) if run.plan.path is None else None
    return _plan(run, config, sequence_length, there, replicas)


def _plan(
    run: RunConfig,
    config: ModelConfig,
    sequence_length: int,
    there: Inventory | None,
    replicas: int | None,
) -> Plan:
    if there is None:
        assert run.plan.path is not None
        plan = load_plan(run.plan.path)
        plan.check_model(config)
        plan = plan.of_replicas(replicas or plan.replicas)
    else:
        plan = _made(run, config, sequence_length, there, replicas or run.plan.replicas)
    check_step(plan, run.train.schedule, run.train.micro_batches)
    if run.train.orthogonal is not None and plan.replicas > 1:
        raise PlanError(
            f"the plan has {plan.replicas} replicas, which cut the rows of experts that "
            "train.orthogonal projects whole; give a plan with one, or remove train.orthogonal"
        )
    return plan


def check_plan(run: RunConfig, config: ModelConfig, sequence_length: int) -> None:
    """Raise the errors in the plan of a run that do not depend on the cluster; needs no Ray.

    A plan that does not exist yet is made for enough equal devices with unlimited memory.
    """
    if run.plan.path is not None:
        fullest_plan(run, config, sequence_length)
        return
    least, _ = replicas_of(run)
    count = least * run.plan.stages * run.plan.gang
    devices = tuple(
        Device(f"any/{number}", "any", CPU, _PLENTY_BYTES, run.plan.threads)
        for number in range(count)
    )
    plan = _made(run, config, sequence_length, Inventory(devices), least)
    check_step(plan, run.train.schedule, run.train.micro_batches)


def wanted(run: RunConfig, config: ModelConfig, sequence_length: int) -> Wanted:
    """Return what the nodes of a cluster measure for the plan of a run: as if it trained all."""
    return Wanted(
        replace(config, tuning=None),
        sequence_length,
        (run.train.micro_batch,),
        OF_PRECISION[run.train.precision].name,
    )


def devices(run: RunConfig, found: Findings) -> Inventory:
    """Return the devices of the cluster as it is now, with what was found of them."""
    nodes = nodes_of_ray()
    return found.applied(inventory(nodes, run.plan.threads), nodes)


def _made(
    run: RunConfig,
    config: ModelConfig,
    sequence_length: int,
    there: Inventory,
    replicas: int,
) -> Plan:
    pins = Pins(stages=run.plan.stages, gang=run.plan.gang, replicas=replicas)
    work = workload(run, sequence_length, there, replicas)
    return make_replicas(config, there, pins, work, run.plan.chunks)


def fullest_plan(
    run: RunConfig, config: ModelConfig, sequence_length: int, there: Inventory | None = None
) -> Plan:
    """Return the plan with the largest allowed number of replicas that the devices can hold.

    The schedule must also be valid for every smaller allowed number of replicas. A run with a plan
    of its own needs no devices.
    """
    least, most = replicas_of(run)
    there = there if run.plan.path is None else None
    plan = _fullest(run, config, sequence_length, there, (least, most))
    for replicas in range(least, plan.replicas):
        try:
            check_step(plan.of_replicas(replicas), run.train.schedule, run.train.micro_batches)
        except PlanError as error:
            raise PlanError(
                f"plan.least_replicas allows {replicas} replicas, which cannot run: {error}"
            ) from error
    return plan


def plan_with_room(
    run: RunConfig, config: ModelConfig, sequence_length: int, plan: Plan | None, found: Findings
) -> Plan:
    """Return the plan of the run with as many replicas as the cluster has room for now.

    ``plan`` is the one to keep to, None to make one from what was ``found`` of the nodes. It may
    have fewer replicas than the run file, where the operator wished so. Where not even the least
    replicas have room, that plan is returned, for the launch to say what is lacked.
    """

    def of(replicas: int) -> Plan:
        if plan is not None:
            return plan.of_replicas(replicas)
        return plan_for(run, config, sequence_length, replicas, found)

    least, most = replicas_of(run)
    if plan is not None:
        least, most = min(least, plan.replicas), plan.replicas
    for replicas in range(most, least, -1):
        try:
            wanted = of(replicas)
            decide(wanted)
        except (PlanError, LaunchError):
            continue
        return wanted
    return of(least)


def _fullest(
    run: RunConfig,
    config: ModelConfig,
    sequence_length: int,
    there: Inventory | None,
    allowed: tuple[int, int],
) -> Plan:
    least, most = allowed
    for replicas in range(most, least, -1):
        try:
            return _plan(run, config, sequence_length, there, replicas)
        except PlanError:
            continue
    return _plan(run, config, sequence_length, there, least)


def replicas_of(run: RunConfig) -> tuple[int, int]:
    """Return the smallest and the largest number of replicas of a run."""
    most = run.plan.replicas if run.plan.path is None else load_plan(run.plan.path).replicas
    least = run.plan.least_replicas or most
    if least > most:
        raise ConfigError(
            f"plan.least_replicas is {least} but {run.plan.path} has {most} replicas; lower it"
        )
    return least, most
