"""Makes a plan of a given shape, for one replica and a workload cut into its micro-batches."""

from dataclasses import replace

from moe.config.model import ModelConfig
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.plan import Plan
from moe.planning.search.pins import Pins
from moe.planning.search.search import Question, search
from moe.planning.stages.split import spans, split


def make_plan(
    config: ModelConfig, inventory: Inventory, stages: int, gang: int, workload: Workload
) -> Plan:
    """Return the plan for this many stages and ranks per stage, or say why there is none."""
    pins = Pins(stages=stages, gang=gang, replicas=1, micro_batch=workload.micro_batch)
    sequences = workload.micro_batch * workload.micro_batches
    return search(Question(config, inventory, workload, sequences, pins)).plan


def even_layers(plan: Plan) -> Plan:
    """Return the same gangs with the layers spread evenly: what a plan is compared with."""
    cuts = spans(split(plan.model["layers"], len(plan.stages)))
    stages = (
        replace(stage, layers=cut, seconds=0.0, recompute=(), placement=())
        for stage, cut in zip(plan.stages, cuts, strict=True)
    )
    return replace(plan, stages=tuple(stages))
