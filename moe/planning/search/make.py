"""Makes a plan of a given shape, for a workload cut into its micro-batches."""

from dataclasses import replace

from moe.config.model import ModelConfig
from moe.errors import PlanError
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.plan.chunks import FOLDED_SCHEDULE, check_fits
from moe.planning.plan.plan import Plan
from moe.planning.search.chunked import for_schedule, searchable
from moe.planning.search.interleave import interleave
from moe.planning.search.pins import Pins
from moe.planning.search.search import Question, search
from moe.planning.stages.split import spans, split

_PLENTY = 1000


def make_plan(
    config: ModelConfig,
    inventory: Inventory,
    stages: int,
    gang: int,
    workload: Workload,
    chunks: int = 1,
) -> Plan:
    """Return the plan for this many stages, ranks per stage and spans of layers per stage.

    One replica, that is; or say why there is none.
    """
    return make_replicas(config, inventory, Pins(stages=stages, gang=gang), workload, chunks)


def make_replicas(
    config: ModelConfig, inventory: Inventory, pins: Pins, workload: Workload, chunks: int = 1
) -> Plan:
    """Return the plan of a shape that is pinned: stages, gang and, if more than one, replicas.

    The workload is that of each replica.
    """
    stages, replicas = pins.stages or 1, pins.replicas or 1
    if workload.training:
        check_fits(workload.schedule, stages, chunks, workload.schedule == FOLDED_SCHEDULE)
    pins = replace(pins, replicas=replicas, micro_batch=workload.micro_batch)
    sequences = workload.micro_batch * workload.micro_batches * replicas
    question = Question(config, inventory, searchable(workload, stages), sequences, pins)
    try:
        plan = search(question).plan
    except PlanError:
        if question.workload == workload:
            raise
        plan = search(replace(question, inventory=_roomy(inventory))).plan
    return for_schedule(config, plan, inventory, workload, chunks)


def _roomy(inventory: Inventory) -> Inventory:
    """Return the devices with more memory: what 1F1B has no room for another schedule may have."""
    devices = (
        replace(each, memory_bytes=_PLENTY * each.memory_bytes) for each in inventory.devices
    )
    return replace(inventory, devices=tuple(devices))


def even_layers(plan: Plan) -> Plan:
    """Return the same gangs with the layers spread evenly: what a plan is compared with."""
    cuts = spans(split(plan.model["layers"], len(plan.stages)))
    stages = (
        replace(stage, layers=cut, more=(), seconds=0.0, recompute=(), expert_layout=())
        for stage, cut in zip(plan.stages, cuts, strict=True)
    )
    return interleave(replace(plan, stages=tuple(stages)), plan.chunks, plan.folded)
