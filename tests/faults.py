"""Plans of faults for the soak: drawn from a seed, spaced, every kind in every phase in turn."""

from collections.abc import Sequence
from itertools import cycle, islice
from random import Random

from moe.config.fault import (
    BOUNDARY_PHASES,
    NODE_KINDS,
    PROCESS_KINDS,
    STEP_PHASES,
    Fault,
    FaultKind,
    Phase,
)

OWN_PHASES: tuple[Phase, ...] = (
    "start",
    *STEP_PHASES,
    *(phase for phase in BOUNDARY_PHASES if phase != "resize"),
)
"""The phases that come in every run by themselves; a resize comes where somebody asks for it."""


def faults_of(
    seed: int,
    steps: int,
    ranks: int,
    count: int,
    kinds: Sequence[FaultKind] = (*PROCESS_KINDS, *NODE_KINDS),
    phases: Sequence[Phase] = OWN_PHASES,
) -> tuple[Fault, ...]:
    """Return so many faults in the order of their steps, the same for the same seed.

    The steps are cut into ``count`` equal stretches, and each fault lies in the first half of its
    stretch, so that a run has half a stretch to recover. No fault comes before step 1, and none
    waits for something that may not come again: a fault at a start hits the process that replaces
    the rank after a later fault, so it gets the rank of the next fault, and none is the last.
    """
    if not 0 < 2 * count <= steps:
        raise ValueError(f"asked for {count} faults in {steps} steps; give two steps for each")
    random, stretch = Random(seed), steps // count
    found: list[Fault] = []
    for number, (kind, phase) in enumerate(islice(_kinds(random, kinds, phases), count)):
        step = max(1, number * stretch + random.randrange(max(1, stretch // 2)))
        found.append(Fault(kind, random.randrange(ranks), step, phase))
    return _with_starts(found)


def _kinds(
    random: Random, kinds: Sequence[FaultKind], phases: Sequence[Phase]
) -> "cycle[tuple[FaultKind, Phase | None]]":
    """Return every kind in every phase in a random order, over and over."""
    both: list[tuple[FaultKind, Phase | None]] = [
        (kind, phase) for kind in kinds for phase in (phases if kind in PROCESS_KINDS else (None,))
    ]
    random.shuffle(both)
    return cycle(both)


def _with_starts(faults: list[Fault]) -> tuple[Fault, ...]:
    """Have faults at a start hit a process that will start."""
    for number in reversed(range(len(faults))):
        fault = faults[number]
        if fault.phase != "start":
            continue
        later = [other for other in faults[number + 1 :] if other.kind in ("kill", "hang")]
        if later:
            faults[number] = Fault(fault.kind, later[0].rank, fault.step, "start")
        else:
            faults[number] = Fault(fault.kind, fault.rank, fault.step, "step")
    return tuple(faults)
