"""What a driver is given, a run to drive, and how it ends. Values."""

from dataclasses import dataclass

from ray.actor import ActorHandle

from actors.faults.armed import NO_FAULTS, FaultPlan
from moe.checkpoint.training import SaveContext
from moe.config.run import RunConfig
from moe.planning.plan.plan import Plan
from pipelines.planning.probing import Findings
from pipelines.training.board import (
    Board,
)
from pipelines.training.copy_room import without_copies
from pipelines.training.measuring import with_detail
from pipelines.training.run_plan import NOTHING


@dataclass(frozen=True, slots=True)
class Work:
    """A run to drive: the context of its checkpoints, its plan, and the board for its reports.

    ``plan`` covers the largest number of replicas; None if the driver makes the plan for the nodes
    that are present, from what was ``found`` of them at the start. ``began`` is the largest plan
    that they had room for then, to which the run may grow back. ``faults`` are those that the run
    is to suffer. ``copies``: whether the ranks keep copies, as the run file says and the memory
    allows. ``wait_seconds``: how long the first launch waits for room. ``living`` is the plan of
    actors that a command line before this one has left, if they are to be taken over.
    """

    plan: Plan | None
    context: SaveContext
    board: ActorHandle[Board]
    began: Plan
    copies: bool
    wait_seconds: float = 0.0
    found: Findings = NOTHING
    faults: FaultPlan = NO_FAULTS
    living: Plan | None = None

    @property
    def run(self) -> RunConfig:
        """The run as it goes: without copies where there is no room for them, with a decision on
        how much is measured.
        """
        run = self.context.run if self.copies else without_copies(self.context.run)
        return with_detail(run, self.context.config, self.began)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: the last step done, below the final step if the run was stopped.

    Errors are raised: Ray Train tries again, unless they are final (``pipelines.training.final``).
    """

    step: int
