"""The position of each stage in its pipeline: micro-batches kept, embedding and head, messages."""

from itertools import pairwise

from moe.errors import PlanError
from moe.planning.counts.memory import Position
from moe.planning.counts.workload import Workload
from moe.planning.plan.plan import Plan
from moe.planning.schedules.schedule import held_at_peaks, in_flight


def positions_of(stages: int, workload: Workload) -> tuple[Position, ...]:
    """Return the position of each of ``stages`` stages."""
    if workload.training:
        kept = in_flight(workload.schedule, stages, workload.micro_batches)
    else:
        kept = (1,) * stages
    return tuple(
        Position(count, (number == 0, number == stages - 1)) for number, count in enumerate(kept)
    )


def plan_positions(plan: Plan, workload: Workload) -> tuple[Position, ...]:
    """Return the position of each stage of a plan; PlanError if the plan cannot do this
    workload.
    """
    stages, chunks = len(plan.stages), plan.chunks
    if not workload.training:
        if chunks > 1:
            raise PlanError(
                f"the plan has {chunks} spans of layers a stage, which is for training: a token "
                f"would go through the stages {chunks} times; make a plan for serving"
            )
        return positions_of(stages, workload)
    plan.check_schedule(workload.schedule, workload.micro_batches)
    if chunks == 1:
        return positions_of(stages, workload)
    peaks = held_at_peaks(workload.schedule, stages, workload.micro_batches, chunks)
    kept = in_flight(workload.schedule, stages, workload.micro_batches, chunks)
    homes = [plan.home(chunk) for chunk in range(stages * chunks)]
    travels = [one != other for one, other in pairwise(homes)]
    hops = list(zip(homes, [False, *travels], [*travels, False], strict=True))
    return tuple(
        Position(
            kept[stage],
            (stage == homes[0], stage == homes[-1]),
            peaks[stage],
            (
                sum(comes for home, comes, _ in hops if home == stage),
                sum(returns for home, _, returns in hops if home == stage),
            ),
        )
        for stage in range(stages)
    )
