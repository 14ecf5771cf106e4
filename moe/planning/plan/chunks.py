"""Which stage holds which chunk of the model, where a stage holds several spans of layers.

A chunk is a span of layers; chunks are numbered along the model. With p stages of c chunks each,
chunk k is on stage k mod p: the model goes round in a *loop*. Or, with two, it is *folded* to a V
(ZB-V, arXiv 2401.10241): stage s holds chunks s and 2p - 1 - s, so that the last chunk is where the
first is, and nothing travels at the foot of the V. On one stage both orders are the same.
"""

from collections.abc import Sequence
from functools import lru_cache

from moe.errors import PlanError
from moe.planning.schedules import schedule as schedules

Span = tuple[int, int]

FOLDED_SCHEDULE = "zbv"
"""The one schedule that goes down the V and up again."""


@lru_cache(maxsize=64)
def chunk_homes(stages: int, chunks: int, folded: bool) -> tuple[tuple[int, int], ...]:
    """Return the stage of every chunk, and which of the stage's spans it is."""
    count = stages * chunks
    if folded:
        return tuple((min(chunk, count - 1 - chunk), chunk // stages) for chunk in range(count))
    return tuple((chunk % stages, chunk // stages) for chunk in range(count))


def is_folded(stages: Sequence[Sequence[Span]], layers: int) -> bool:
    """Tell whether the spans of the stages can only be a V: the first stage ends the model too."""
    return len(stages[0]) == 2 and stages[0][1][1] == layers


def check_fits(schedule: str, stages: int, chunks: int, folded: bool) -> None:
    """Raise PlanError where a plan's spans of layers are not those that a schedule goes through."""
    schedules.check_name(schedule)
    has = f"the plan has {_spans(chunks)} a stage"
    needed = schedules.CHUNKS.get(schedule, chunks)
    if chunks != needed:
        folds = ", folded to a V" if schedule == FOLDED_SCHEDULE else ""
        other = (FOLDED_SCHEDULE if folded else "interleaved-1f1b") if chunks > 1 else "1f1b"
        raise PlanError(
            f"{schedule} needs {_spans(needed)} a stage{folds}, but {has}; make the plan anew with "
            f"plan.chunks = {needed}, or set the schedule to {other}"
        )
    if stages == 1 or folded == (schedule == FOLDED_SCHEDULE):
        return
    if folded:
        raise PlanError(
            f"{schedule} goes through the stages in a loop, but {has}, folded to a V; set the "
            f"schedule to {FOLDED_SCHEDULE}, or make the plan anew for {schedule}"
        )
    other = "interleaved-1f1b or zero-bubble"
    raise PlanError(
        f"{schedule} goes down a V and up again, but {has}, in a loop; make the plan anew for "
        f"{schedule}, or set the schedule to {other}"
    )


def _spans(count: int) -> str:
    return "one span of layers" if count == 1 else f"{count} spans of layers"
