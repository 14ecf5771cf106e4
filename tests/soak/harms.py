"""What a soak does to a run, drawn from a seed: faults of ranks and nodes, and blows from outside.

A fault is given to the command line, and happens in the process of a rank or by the driver of the
run. A blow is what no fault can be: the driver itself is killed, or a rank and the holder of its
copy in one moment, which only the checkpoint mends; or the run is asked for fewer replicas, and
then for as many as before. Each time a fault is there that spoils the first try.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from random import Random
from typing import Literal, get_args

from moe.config.fault import PROCESS_KINDS, Fault
from tests.faults import faults_of

BlowKind = Literal["driver", "pair", "resize"]
BLOW_EVERY = 4
"""Every so many harms one is a blow."""
STAYING = 2
"""Ranks of one replica, which stay where the others end."""
NOTICE_SECONDS = 12
"""What a node that is drained says it has left."""


@dataclass(frozen=True, slots=True)
class Blow:
    """What is done from outside, once ``step`` steps are recorded."""

    kind: BlowKind
    step: int


@dataclass(frozen=True, slots=True)
class Harms:
    """All that happens to one run, each in its own stretch of steps."""

    faults: tuple[Fault, ...]
    blows: tuple[Blow, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.faults) + len(self.blows)


def each_once() -> Harms:
    """Return what happens in the short form, some steps apart."""
    faults = (
        Fault("kill", 1, 5, "backward"),
        Fault("hang", 2, 10, "forward"),
        Fault("raise", 3, 15, "reduction"),
        Fault("node", 0, 20),
    )
    return Harms(faults, (Blow("driver", 26), Blow("pair", 32), Blow("resize", 38)))


def harms_of(seed: int, steps: int, ranks: int, count: int) -> Harms:
    """Return so many harms in a run of so many steps, the same for the same seed."""
    random, stretch = Random(seed), steps // count
    struck = [number for number in range(count) if number % BLOW_EVERY == BLOW_EVERY - 2]
    kinds = cycle(random.sample(get_args(BlowKind), len(get_args(BlowKind))))
    blows = tuple(Blow(next(kinds), number * stretch + stretch // 4) for number in struck)
    drawn = faults_of(seed, stretch * (count - len(struck)), ranks, count - len(struck))
    faults = [_moved(fault, stretch, struck) for fault in drawn]
    return Harms((*faults, *_spoiling(random, blows)), blows)


def _spoiling(random: Random, blows: Sequence[Blow]) -> Iterator[Fault]:
    """Yield a fault for each resize, in turn of every kind, on a rank that is in both plans."""
    for kind, blow in zip(cycle(PROCESS_KINDS), _resizes(blows), strict=False):
        yield Fault(kind, random.randrange(STAYING), blow.step, "resize")


def _resizes(blows: Sequence[Blow]) -> list[Blow]:
    return [blow for blow in blows if blow.kind == "resize"]


def _moved(fault: Fault, stretch: int, struck: Sequence[int]) -> Fault:
    """Return a fault in its stretch of the whole run, in which some stretches are struck."""
    own, within = divmod(fault.step, stretch)
    for number in struck:
        own += number <= own
    notice = NOTICE_SECONDS if fault.kind == "drain" else None
    return replace(fault, step=own * stretch + within, seconds=notice)
