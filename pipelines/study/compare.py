"""Whether a difference between arms is there, from a few seeds.

Two arms are compared seed by seed: a seed gives both the same initial values, where shapes agree,
and the same text in the same order. For differences d of n seeds

    t = mean(d) / (std(d) / sqrt(n))

A difference is *seen* if t is at least the point that a t distribution of n - 1 degrees exceeds in
one of twenty cases. With one seed nothing is seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Literal

Verdict = Literal["holds", "does not hold", "not seen at this size"]

ONE_IN_TWENTY = (0.0, 6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)
"""By degrees of freedom, from 1: the one-sided 5 % point of Student's t; more take the last."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of ``ours - other`` over seeds, and the standard error of that mean."""

    mean: float
    error: float
    seeds: int

    @property
    def seen(self) -> bool:
        """Whether it is more than chance gives in one of twenty cases."""
        if self.seeds < 2:
            return False
        point = ONE_IN_TWENTY[min(self.seeds - 1, len(ONE_IN_TWENTY) - 1)]
        return abs(self.mean) > point * self.error

    @property
    def text(self) -> str:
        """The difference as it stands in a table: ``-0.018 ± 0.004``."""
        return f"{self.mean:+.4f}" + (f" ± {self.error:.4f}" if self.seeds > 1 else ", one seed")

    def below(self) -> Verdict:
        """Judge the claim that it is negative."""
        if not self.seen:
            return "not seen at this size"
        return "holds" if self.mean < 0 else "does not hold"

    def above(self) -> Verdict:
        """Judge the claim that it is positive."""
        return Difference(-self.mean, self.error, self.seeds).below()

    def within(self, bound: float) -> Verdict:
        """Judge the claim that it is at most ``bound`` in size."""
        if self.seen and abs(self.mean) > bound:
            return "does not hold"
        small = self.seeds > 1 and abs(self.mean) + self.error <= bound
        return "holds" if small else "not seen at this size"


def difference(ours: Sequence[float], other: Sequence[float]) -> Difference:
    """Compare two arms, seed by seed."""
    each = [one - two for one, two in zip(ours, other, strict=True)]
    error = stdev(each) / sqrt(len(each)) if len(each) > 1 else 0.0
    return Difference(fmean(each), error, len(each))


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Judge a claim of several parts: all must hold, one that fails is enough to fail it."""
    if "does not hold" in verdicts:
        return "does not hold"
    return "holds" if all(each == "holds" for each in verdicts) else "not seen at this size"
