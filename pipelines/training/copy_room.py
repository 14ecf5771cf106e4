"""Whether a run has memory for the copies of its ranks, which is said before it starts.

Copies are worth having and not worth refusing a run for: where they do not fit, a run with
``elastic.copy_every = "auto"`` goes on without them.
"""

from dataclasses import dataclass, replace

from actors.commands import BuildCommand
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.errors import PlanError
from moe.planning.devices.inventory import Inventory
from moe.planning.plan.plan import Plan
from moe.planning.prediction.copies import CopyRoom, room_for_copies
from pipelines.planning.run_work import workload
from pipelines.training.run_plan import fullest_plan

_BACK = "a lost rank sends the run back to its last checkpoint"


@dataclass(frozen=True, slots=True)
class Planned:
    """A run as it goes, its fullest plan, and the sentence on copies for who runs it."""

    run: RunConfig
    plan: Plan
    told: str


def planned(
    run: RunConfig, config: ModelConfig, sequence_length: int, there: Inventory | None
) -> Planned:
    """Return the plan of a run on these devices, with room for copies or without it.

    PlanError where not even the ranks alone fit. A run that has its plan needs no devices: what
    its ranks ask for then has room for copies.
    """
    bare = without_copies(run)
    if not run.elastic.copies:
        told = f"no copies of ranks are kept, because elastic.copy_every is 0: {_BACK}"
        return Planned(bare, fullest_plan(bare, config, sequence_length, there), told)
    try:
        plan = fullest_plan(run, config, sequence_length, there)
    except PlanError:
        plan = fullest_plan(bare, config, sequence_length, there)
    if plan.replicas * plan.ranks == 1:
        told = f"no copies of ranks are kept while the run has one rank, without a peer: {_BACK}"
        return Planned(run, plan, told)
    if there is None:
        told = "ranks keep copies of each other: a lost rank comes back from one"
        return Planned(run, plan, told)
    work = workload(bare, sequence_length, there, plan.replicas)
    return decided(run, plan, room_for_copies(config, plan, standing_in(there, plan), work))


def as_built(run: RunConfig, living: BuildCommand) -> Planned:
    """Return the plan of ranks that are taken over, which keep copies or none as they did."""
    assert living.run is not None
    if living.run.elastic.copies:
        return Planned(run, living.plan, "the ranks that are taken over keep their copies")
    told = f"the ranks that are taken over keep no copies: {_BACK}"
    return Planned(without_copies(run), living.plan, told)


def without_copies(run: RunConfig) -> RunConfig:
    """Return the run that keeps no copies."""
    elastic = run.elastic.model_copy(update={"copy_every": 0})
    return run.model_copy(update={"elastic": elastic})


def standing_in(there: Inventory, plan: Plan) -> Inventory:
    """Return devices by the names of a plan: its own, or for one unknown here the smallest there.

    A plan file may come from another cluster.
    """
    known = {device.name for device in there.devices}
    smallest = min(there.devices, key=lambda device: device.memory_bytes)
    named = {name for seat in plan.seats for name in plan.rank(seat).devices}
    strange = tuple(replace(smallest, name=name) for name in sorted(named - known))
    return replace(there, devices=there.devices + strange)


def decided(run: RunConfig, plan: Plan, room: CopyRoom) -> Planned:
    """Return how a run goes on that has so much room; a number of steps that is given is kept."""
    every = run.elastic.copy_every
    if room.fits:
        return Planned(run, plan, f"{room.told}: a lost rank comes back from one")
    if every == "auto":
        return Planned(without_copies(run), plan, f"{room.told}. This run keeps none")
    told = f"{room.told}. They are kept all the same, because elastic.copy_every is {every}"
    return Planned(run, plan, told)
