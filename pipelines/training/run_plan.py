"""The plan of a run: read from its file, or made for the present cluster."""

from actors.step.replicas import check_step
from cluster.probe import probe
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.errors import ConfigError, PlanError
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import CPU, Device, Inventory
from moe.planning.plan.file import load_plan
from moe.planning.plan.plan import Plan
from moe.planning.search.make import make_replicas
from moe.planning.search.pins import Pins

_PLENTY_BYTES = 2**60
"""Bytes of memory of an imagined device that can hold any share."""


def plan_for(
    run: RunConfig, config: ModelConfig, sequence_length: int, replicas: int | None = None
) -> Plan:
    """Return the plan of a run with ``replicas`` replicas; None takes the largest number
    allowed.
    """
    if run.plan.path is not None:
        plan = load_plan(run.plan.path)
        plan.check_model(config)
        plan = plan.of_replicas(replicas or plan.replicas)
    else:
        replicas = replicas or run.plan.replicas
        plan = _made(run, config, sequence_length, probe(run.plan.threads), replicas)
    check_step(plan, run.train.schedule, run.train.micro_batches)
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


def _made(
    run: RunConfig,
    config: ModelConfig,
    sequence_length: int,
    there: Inventory,
    replicas: int,
) -> Plan:
    pins = Pins(stages=run.plan.stages, gang=run.plan.gang, replicas=replicas)
    wanted = workload(run, sequence_length, there, replicas)
    return make_replicas(config, there, pins, wanted, run.plan.chunks)


def fullest_plan(run: RunConfig, config: ModelConfig, sequence_length: int) -> Plan:
    """Return the plan with the largest allowed number of replicas that the cluster can hold now.

    The schedule must also be valid for every smaller allowed number of replicas.
    """
    least, most = replicas_of(run)
    plan = _fullest(run, config, sequence_length, least, most)
    for replicas in range(least, plan.replicas):
        try:
            check_step(plan.of_replicas(replicas), run.train.schedule, run.train.micro_batches)
        except PlanError as error:
            raise PlanError(
                f"plan.least_replicas allows {replicas} replicas, which cannot run: {error}"
            ) from error
    return plan


def _fullest(
    run: RunConfig, config: ModelConfig, sequence_length: int, least: int, most: int
) -> Plan:
    for replicas in range(most, least, -1):
        try:
            return plan_for(run, config, sequence_length, replicas)
        except PlanError:
            continue
    return plan_for(run, config, sequence_length, least)


def replicas_of(run: RunConfig) -> tuple[int, int]:
    """Return the smallest and the largest number of replicas of a run."""
    most = run.plan.replicas if run.plan.path is None else load_plan(run.plan.path).replicas
    least = run.plan.least_replicas or most
    if least > most:
        raise ConfigError(
            f"plan.least_replicas is {least} but {run.plan.path} has {most} replicas; lower it"
        )
    return least, most


def workload(run: RunConfig, sequence_length: int, there: Inventory, replicas: int = 1) -> Workload:
    """Return the workload of one step on the replica with the most micro-batches."""
    most = -(-run.train.micro_batches // replicas)
    return Workload.of_run(run.train, sequence_length, most, snapshots=there.of_cpus)
