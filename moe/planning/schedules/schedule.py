"""The order of work of each stage: GPipe, 1F1B, interleaved 1F1B, zero-bubble, ZB-V. Pure values.

A chunk is a span of layers; chunks are numbered along the model, a stage holds ``chunks`` of them
and one is the usual case, where chunk and stage are the same number. The backward pass is whole or
cut in two: the gradient of the input, which the chunk before waits for, and that of the weights,
which nobody waits for. With p stages, m micro-batches and c chunks a stage, stage s (from 0) first
runs a number of forwards ahead and then alternates forward and backward until the forwards are out:

    schedule          chunks  forwards ahead                    backward, and what is asked
    gpipe             1       m                                 whole
    1f1b              1       p - s - 1                         whole; m >= p
    interleaved-1f1b  c       (c - 1) r + 2 (p - s - 1)         whole; m a multiple of the rounds
    zero-bubble       c       (c - 1) r + (p - s - 1)           cut, weights s micro-batches late;
                                                                m a multiple of the rounds
    zbv               2       on the way down 2 (p - s) - 1     cut

Rounds are max(1, m // p) and r = m / rounds is the micro-batches of one: a stage works through a
round on one chunk before it turns to the next. Chunk k is on stage k mod p; only ZB-V folds the
model, so that stage s holds chunks s and 2p - 1 - s. Sources: arXiv 1811.06965 (GPipe), 2104.04473
(1F1B and interleaved), 2401.10241 (zero-bubble: ZB-H1 with one chunk a stage; ZB-V). These are the
orders of ``torch.distributed.pipelining``; ``actors.step.pipeline`` plays them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Literal, NamedTuple

from moe.errors import PlanError

Kind = Literal["F", "B", "I", "W"]
FORWARD: Kind = "F"
BACKWARD: Kind = "B"
"""The whole backward pass of a chunk."""
INPUT: Kind = "I"
"""The part of the backward pass for which the previous chunk waits: the gradient of the input."""
WEIGHT: Kind = "W"
"""The part of the backward pass that can be deferred: the gradients of weights."""

SCHEDULES = ("gpipe", "1f1b", "interleaved-1f1b", "zero-bubble", "zbv")
CHUNKS = {"gpipe": 1, "1f1b": 1, "zbv": 2}
"""Number of chunks per stage, for schedules that need a fixed number."""
_RELEASES = {FORWARD: 1, BACKWARD: -1, INPUT: 0, WEIGHT: -1}


class Action(NamedTuple):
    """One piece of work: its kind, the chunk of the model, the micro-batch."""

    kind: Kind
    chunk: int
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.chunk}{self.kind}{self.micro_batch}"


Order = tuple[Action, ...]


@lru_cache(maxsize=256)
def actions(schedule: str, stages: int, micro_batches: int, chunks: int = 1) -> tuple[Order, ...]:
    """Return the work of each stage in order; PlanError if the schedule does not exist for these
    sizes.
    """
    check_schedule(schedule, stages, micro_batches, chunks)
    if schedule == "zbv":
        return tuple(_folded(stage, stages, micro_batches) for stage in range(stages))
    return tuple(_looped(schedule, stage, stages, micro_batches, chunks) for stage in range(stages))


def one_by_one(orders: Iterable[Order]) -> tuple[Order, ...]:
    """Return orders of the same work in which a micro-batch begins when the one before is through.

    At any time one stage works and all others wait for it.
    """
    return tuple(tuple(sorted(order, key=_turn)) for order in orders)


def _turn(action: Action) -> tuple[int, bool, int]:
    """Return when a piece of work is done where micro-batches go one by one."""
    back = action.kind != FORWARD
    return action.micro_batch, back, -action.chunk if back else action.chunk


def in_flight(schedule: str, stages: int, micro_batches: int, chunks: int = 1) -> tuple[int, ...]:
    """Return the largest number of micro-batches whose activations each stage keeps at once.

    Counted by chunk: a stage of ``chunks`` equal chunks keeps that many times 1 / ``chunks`` of the
    activations of its layers.
    """
    if (schedule, chunks) == ("1f1b", 1):
        check_schedule(schedule, stages, micro_batches, chunks)
        return tuple(range(stages, 0, -1))
    return tuple(most_held(order) for order in actions(schedule, stages, micro_batches, chunks))


@lru_cache(maxsize=256)
def held_at_peaks(
    schedule: str, stages: int, micro_batches: int, chunks: int = 1
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Return for each stage the number of micro-batches that it keeps of each chunk, at its peaks.

    A peak is a moment that no other moment equals or exceeds in every chunk; which peak is the
    fullest depends on the contents of the chunks.
    """
    return tuple(_peaks(order) for order in actions(schedule, stages, micro_batches, chunks))


def most_held(order: Iterable[Action]) -> int:
    """Return the largest number of (chunk, micro-batch) pairs between forward and backward at
    once.
    """
    return max(accumulate((_RELEASES[action.kind] for action in order), initial=0))


def check_name(schedule: str) -> None:
    """Raise PlanError if there is no such schedule."""
    if schedule not in SCHEDULES:
        raise PlanError(f"no schedule {schedule!r}; choose one of {', '.join(SCHEDULES)}")


def check_schedule(schedule: str, stages: int, micro_batches: int, chunks: int = 1) -> None:
    """Raise PlanError if the schedule does not exist for these sizes."""
    check_name(schedule)
    if min(stages, micro_batches, chunks) < 1:
        raise PlanError(
            f"asked for {schedule} of {stages} stages, {micro_batches} micro-batches and "
            f"{chunks} chunks a stage; set each to at least 1"
        )
    needed = CHUNKS.get(schedule, chunks)
    if chunks != needed:
        raise PlanError(
            f"{schedule} has {needed} chunks a stage but {chunks} were asked for; set chunks to "
            f"{needed}, or choose interleaved-1f1b or zero-bubble, which take any number"
        )
    if schedule == "1f1b" and micro_batches < stages:
        raise PlanError(
            f"1f1b of {stages} stages needs at least {stages} micro-batches but has "
            f"{micro_batches}; raise the micro-batches or lower the stages"
        )
    rounds = max(1, micro_batches // stages)
    if schedule not in CHUNKS and micro_batches % rounds:
        raise PlanError(
            f"{schedule} takes {micro_batches} micro-batches over {stages} stages in {rounds} "
            f"rounds, which do not divide them; set micro-batches to a multiple of {stages}"
        )


def _peaks(order: Order) -> tuple[tuple[int, ...], ...]:
    """Return the numbers of held micro-batches of each chunk of a stage, at every peak."""
    held = dict.fromkeys(sorted({action.chunk for action in order}), 0)
    tops: set[tuple[int, ...]] = set()
    for action in order:
        if _RELEASES[action.kind] < 0:
            tops.add(tuple(held.values()))
        held[action.chunk] += _RELEASES[action.kind]
    return tuple(
        sorted(
            top
            for top in tops
            if not any(top != other and all(map(int.__le__, top, other)) for other in tops)
        )
    )


def taken(schedule: str, stages: int, micro_batches: int) -> int:
    """Return the least number of micro-batches, from this one on, that a schedule takes."""
    count = max(micro_batches, stages) if schedule == "1f1b" else micro_batches
    while schedule not in CHUNKS and count % max(1, count // stages):
        count += 1
    return count


def _looped(schedule: str, stage: int, stages: int, micro_batches: int, chunks: int) -> Order:
    """Return the order of a stage that holds every ``stages``-th chunk."""
    held = range(stage, stages * chunks, stages)
    after = stages - stage - 1
    if schedule not in CHUNKS:
        in_round = micro_batches // max(1, micro_batches // stages)
        ahead = (chunks - 1) * in_round + (1 if schedule == "zero-bubble" else 2) * after
    else:
        in_round = micro_batches
        ahead = micro_batches if schedule == "gpipe" else after
    split = schedule == "zero-bubble"
    forwards = _rounds(FORWARD, held, micro_batches, in_round)
    backwards = _rounds(INPUT if split else BACKWARD, held[::-1], micro_batches, in_round)
    return _woven(forwards, backwards, min(ahead, len(forwards)), stage if split else None)


def _rounds(kind: Kind, held: Sequence[int], micro_batches: int, in_round: int) -> list[Action]:
    """Return one kind of work of a stage: a round on each chunk, then the next round."""
    return [
        Action(kind, chunk, micro_batch)
        for first in range(0, micro_batches, in_round)
        for chunk in held
        for micro_batch in range(first, first + in_round)
    ]


def _woven(
    forwards: list[Action], backwards: list[Action], ahead: int, postponed: int | None
) -> Order:
    """Alternate forward and backward after the first ``ahead`` forwards.

    If ``postponed`` is a number, the backward passes are for inputs only, and the weights follow
    that many backward passes later.
    """
    order = forwards[:ahead]
    late = len(backwards) if postponed is None else postponed
    for done, backward in enumerate(backwards):
        order += forwards[ahead + done : ahead + done + 1]
        order.append(backward)
        if done >= late:
            order.append(backwards[done - late]._replace(kind=WEIGHT))
    if postponed is not None:
        left = backwards[max(0, len(backwards) - postponed) :]
        order += [backward._replace(kind=WEIGHT) for backward in left]
    return tuple(order)


def _folded(stage: int, stages: int, micro_batches: int) -> Order:
    """Return the order of a ZB-V stage, which holds one chunk on the way down and one on the way
    up.

    The full pattern needs at least 2p - 1 micro-batches; with fewer, the missing ones are omitted.
    """
    down, up = stage, 2 * stages - 1 - stage
    filled = max(2 * stages - 1, micro_batches)
    after = stages - stage - 1
    back_down = [(INPUT, down), (WEIGHT, down)]
    through_up = [(FORWARD, up), (INPUT, up), (WEIGHT, up)]
    pattern = [
        *[(FORWARD, down)] * (2 * after + 1),
        *[(FORWARD, up), (FORWARD, down)] * stage,
        *through_up * (after + 1),
        *[(FORWARD, down), *back_down, *through_up] * (filled - stages - after),
        *[*back_down, *through_up] * after,
        *[(INPUT, down), (INPUT, up)] * stage,
        *back_down * (after + 1),
        *[(WEIGHT, up)] * stage,
        *[(WEIGHT, down)] * stage,
    ]
    seen: Counter[tuple[Kind, int]] = Counter()
    order: list[Action] = []
    for kind, chunk in pattern:
        if seen[kind, chunk] < micro_batches:
            order.append(Action(kind, chunk, seen[kind, chunk]))
        seen[kind, chunk] += 1
    return tuple(order)
