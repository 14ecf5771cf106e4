"""``raymoe plan`` for schedules that the search does not know, and for several spans a stage."""

from dataclasses import replace

from moe.errors import ConfigError
from moe.planning.counts.workload import Workload
from moe.planning.plan.chunks import FOLDED_SCHEDULE, check_fits
from moe.planning.search.chunked import SEARCHED, for_schedule
from moe.planning.search.search import Found, Question


def check_chunking(question: Question, workload: Workload, chunks: int) -> None:
    """Raise ConfigError for options that have no effect together, PlanError for impossible ones."""
    schedule, pins = workload.schedule, question.pins
    if not workload.training:
        if (schedule, chunks) != ("1f1b", 1):
            raise ConfigError(
                f"--schedule {schedule} and --chunks {chunks} are for training, because a served "
                "token goes through every stage once; leave them out with --serving"
            )
        return
    check_fits(schedule, pins.depth or 2, chunks, schedule == FOLDED_SCHEDULE)
    if chunks > 1 and pins.depth == 1:
        raise ConfigError(
            f"--chunks {chunks} shortens the wait of stages for each other, but there is one "
            "stage; raise --stages, or leave --chunks out"
        )
    if schedule in SEARCHED:
        return
    if pins.layers is not None:
        raise ConfigError(
            f"layers are pinned to {list(pins.layers)}, but for {schedule} the search moves layers "
            "between stages; leave the pin out, or plan for 1f1b and simulate that plan under "
            f"{schedule}"
        )
    if question.objective != "step":
        raise ConfigError(
            f"--objective {question.objective} can be searched under {' and '.join(SEARCHED)}, not "
            f"under {schedule}; choose --objective step, or another schedule"
        )


def chunked(question: Question, found: Found, schedule: str, chunks: int) -> Found:
    """Return what was found, with the plan made one for a schedule in so many spans a stage."""
    work = replace(found.workload, schedule=schedule)
    if chunks > 1 and len(found.plan.stages) == 1:
        raise ConfigError(
            f"the best pipeline has one stage, where --chunks {chunks} has no effect; leave "
            "--chunks out, or give --stages"
        )
    plan = for_schedule(question.config, found.plan, question.inventory, work, chunks)
    return replace(found, plan=plan, workload=work)


def moved_notes(found: Found) -> list[str]:
    """Say how a plan came about for a schedule that was not searched for."""
    if not found.workload.training or found.workload.schedule in SEARCHED:
        return []
    return [
        f"searched under 1f1b, then layers were moved between stages while the step under "
        f"{found.workload.schedule} became shorter: not proved the best, and the alternatives are "
        "for 1f1b"
    ]
