"""Whether something grows: one slope for all processes of a role, each from a start of its own."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

SETTLING_SECONDS = 60.0
"""A process that has just begun to work fills its buffers: of ranks that a soak looked at, memory
rose by 4 MiB in the first minute and by less than 1 MiB in the three after it.
"""
GREAT, SMALL = 0.25, 0.02
"""A sudden gain of this part of all that a process has gained, and of what it has, marks that it
began to work: a warm process waits for a long time before it becomes a rank.
"""


@dataclass(frozen=True, slots=True)
class Growth:
    """What is gained in a second; the true slope is within ``margin`` with 95 % confidence."""

    slope: float
    margin: float
    points: int

    @property
    def surely(self) -> float:
        """The least slope within the confidence; 0 where it may not grow at all."""
        return max(self.slope - self.margin, 0.0)


Point = tuple[int, float, float]
"""A process, seconds, and what it had then."""


def settled(points: Iterable[Point]) -> dict[int, float]:
    """Return from when on each process may be judged, by its memory."""
    own = _own(points)
    return {process: _begun(values) + SETTLING_SECONDS for process, values in own.items()}


def growth(points: Iterable[Point], since: Mapping[int, float]) -> Growth:
    """Fit a line to points; its slope is common, its height each process's own. What a process had
    before ``since`` does not count.

    The margin is that of samples that do not depend on each other.
    """
    own = _own(point for point in points if point[1] >= since[point[0]])
    pairs = [pair for values in own.values() for pair in _centred(values)]
    spread = sum(x * x for x, _ in pairs)
    free = len(pairs) - len(own) - 1
    if free < 1 or not spread:
        return Growth(0.0, math.inf, len(pairs))
    slope = sum(x * y for x, y in pairs) / spread
    rest = sum((y - slope * x) ** 2 for x, y in pairs)
    return Growth(slope, 1.96 * math.sqrt(rest / free / spread), len(pairs))


def _begun(values: list[tuple[float, float]]) -> float:
    """Return when a process last gained much at once; its start if it never did."""
    least, most = min(y for _, y in values), max(y for _, y in values)
    jumps = [
        after
        for (_, low), (after, high) in pairwise(values)
        if high - low > max(GREAT * (most - least), SMALL * most)
    ]
    return jumps[-1] if jumps else values[0][0]


def _own(points: Iterable[Point]) -> dict[int, list[tuple[float, float]]]:
    own: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for process, seconds, amount in points:
        own[process].append((seconds, amount))
    return own


def _centred(values: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the values of one process around their means."""
    middle, height = fmean(x for x, _ in values), fmean(y for _, y in values)
    return [(x - middle, y - height) for x, y in values]
