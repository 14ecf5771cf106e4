"""How a living run stands, for whoever asks from outside of its cluster."""

import ray

from actors.crew.reservation import nodes_of_runs
from cluster.stands import Stands
from moe.planning.plan.file import digest
from pipelines.training.board import plan_of


def standing_of(run: str) -> Stands:
    """Return the shape of a run's plan, the nodes of its ranks, and who else has some."""
    plan, every = plan_of(run), nodes_of_runs("")
    used = every.get(run, set())
    table = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = {str(row["NodeManagerAddress"]) for row in table if row["NodeID"] in used}
    shape = plan.replicas, len(plan.stages), plan.gang_size
    others = tuple(sorted(every.keys() - {run, ""}))
    return Stands(run, *shape, digest(plan), tuple(sorted(nodes)), others)
