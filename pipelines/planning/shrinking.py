"""The best plan over the devices that are left of a run, which keeps what a run cannot change.

The gangs stay as wide, the micro-batch as large, the schedule and the number of spans a stage the
same; stages, and the layers of each, are searched anew. The sequences of a step do not change.
"""

from dataclasses import replace

from moe.config.model import ModelConfig
from moe.errors import PlanError
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.plan.plan import Plan
from moe.planning.search.chunked import SEARCHED, for_schedule, searchable
from moe.planning.search.pins import Pins
from moe.planning.search.search import Question, search


def fewer_stages(
    config: ModelConfig, plan: Plan, work: Workload, left: Inventory, replicas: int
) -> tuple[Plan, Workload] | None:
    """Return a plan of so many replicas over ``left``, and the work of one; None where none fits.

    ``work`` is that of one replica of ``plan``, the plan so far.
    """
    pins = Pins(gang=plan.gang_size, replicas=replicas, micro_batch=work.micro_batch)
    sequences = work.micro_batch * work.micro_batches * plan.replicas
    try:
        found = search(Question(config, left, searchable(work), sequences, pins))
        under = replace(found.workload, schedule=work.schedule)
        if work.schedule in SEARCHED:
            return found.plan, under
        return for_schedule(config, found.plan, left, under, plan.chunks), under
    except PlanError:
        return None
