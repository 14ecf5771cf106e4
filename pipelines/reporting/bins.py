"""Curves of any length in few points: neighbours are joined, and the least and the most stay.

A curve has one bin for each value until there are twice as many as asked for; then neighbours are
joined in pairs, and from then on each bin takes twice as many values. So a curve is read once, and
its memory does not grow with the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MOST = 400
"""Points of a curve as drawn; a picture has fewer pixels."""
LARGEST = 1e100
"""Above it, sums of values would be infinite before long."""


@dataclass(slots=True)
class Bin:
    """Some consecutive values: where they begin and end, their sum, their least and their most.

    ``count`` is 0 where none of them was a number.
    """

    start: float
    stop: float
    count: int = 0
    total: float = 0.0
    least: float = 0.0
    most: float = 0.0

    @property
    def mean(self) -> float:
        """The mean; of a bin with values."""
        return self.total / self.count

    @property
    def middle(self) -> float:
        """Where the bin stands."""
        return (self.start + self.stop) / 2

    def times(self, factor: float) -> "Bin":
        """Return the bin of the values times a factor above 0."""
        least, most, total = (factor * each for each in (self.least, self.most, self.total))
        return Bin(self.start, self.stop, self.count, total, least, most)

    def add(self, x: float, value: float | None) -> None:
        """Take one more value, None for one that is no number."""
        self.stop = x
        if value is not None:
            self.join(Bin(x, x, 1, value, value, value))

    def join(self, other: "Bin") -> None:
        """Take the values of the bin that follows."""
        self.stop = other.stop
        if not other.count:
            return
        self.least = min(self.least, other.least) if self.count else other.least
        self.most = max(self.most, other.most) if self.count else other.most
        self.count += other.count
        self.total += other.total


class Curve:
    """Values in the order of a run, as at most ``2 * limit`` bins."""

    def __init__(self, limit: int = MOST) -> None:
        self._limit = limit
        self._width = 1
        self._room = 0
        self._bins: list[Bin] = []
        self.missing: list[float] = []
        """Where the first ten values that were no numbers stood."""
        self.lost = 0
        """How many these were."""
        self.last: float | None = None

    def add(self, x: float, value: float | None) -> None:
        """Take the next value, None for one that is no number."""
        if value is None:
            self.lost += 1
            if len(self.missing) < 10:
                self.missing.append(x)
        else:
            self.last = value
        if not self._room:
            self._make_room(x)
        self._bins[-1].add(x, value)
        self._room -= 1

    @property
    def bins(self) -> Sequence[Bin]:
        """All bins, in order."""
        return self._bins

    @property
    def found(self) -> list[Bin]:
        """The bins that have values."""
        return [each for each in self._bins if each.count]

    @property
    def joined(self) -> bool:
        """Whether bins hold several values."""
        return self._width > 1

    @property
    def span(self) -> tuple[float, float] | None:
        """The least and the most of all values; None without any."""
        found = self.found
        if not found:
            return None
        return min(each.least for each in found), max(each.most for each in found)

    @property
    def mean(self) -> float | None:
        """The mean of all values; None without any."""
        count = sum(each.count for each in self._bins)
        return sum(each.total for each in self._bins) / count if count else None

    def _make_room(self, x: float) -> None:
        if len(self._bins) == 2 * self._limit:
            for one, other in zip(self._bins[::2], self._bins[1::2], strict=True):
                one.join(other)
            self._bins = self._bins[::2]
            self._width *= 2
        self._bins.append(Bin(x, x))
        self._room = self._width


def number(value: Any) -> float | None:
    """Return a finite number that can be drawn; None for anything else that a journal may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if abs(found) <= LARGEST else None
