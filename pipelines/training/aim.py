"""To what a run grows by itself where nodes come, and which of its processes stay then."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.planning.counts.workload import Workload
from moe.planning.moves.staying import staying
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.planning.policy.returning import anywhere, larger, same_shape
from pipelines.training.run_plan import replicas_of


@dataclass(frozen=True, slots=True)
class Aim:
    """The plan to grow to, None for a run that does not; never with fewer than ``least`` replicas.

    ``config`` and ``work``, the model and what a step does, say what ranks hold.
    """

    goal: Plan | None
    least: int
    config: ModelConfig
    work: Workload

    @classmethod
    def of(cls, run: RunConfig, config: ModelConfig, length: int, began: Plan) -> "Aim":
        """Return the aim of a run that began, or would have with more nodes, under a plan."""
        least, most = replicas_of(run)
        follows = run.elastic.follow_nodes
        goal = anywhere(began, max(most, began.replicas)) if follows else None
        work = Workload.of_run(run.train, length, run.train.micro_batches, gpus=False)
        return cls(goal, least, config, work)

    def larger(self, plan: Plan) -> Iterator[Plan]:
        """Yield the plans to grow to from a plan, the largest first."""
        return iter(()) if self.goal is None else larger(plan, self.goal, self.least)

    def stays(self, plan: Plan, wanted: Plan, nodes: Mapping[Seat, str]) -> dict[Seat, str]:
        """Return the nodes of the seats of a wanted plan whose processes are there already."""
        if same_shape(plan, wanted):
            return {seat: node for seat, node in nodes.items() if seat in wanted.seats}
        stays = staying(self.config, plan, wanted, self.work, nodes)
        return {seat: nodes[was] for seat, was in stays.items()}
