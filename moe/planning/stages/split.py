"""Non-uniform width split inside a stage: heads, feed-forward columns and experts over a gang.

Any total can be divided over any number of ranks that leaves each rank at least one: 36 heads over
8 ranks give 5, 5, 5, 5, 4, 4, 4, 4. With weights (device speeds) the shares follow them by largest
remainder.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from math import inf, isfinite

from moe.errors import PlanError


def split(total: int, parts: int, weights: Sequence[float] | None = None) -> tuple[int, ...]:
    """Return ``parts`` shares of ``total``, each at least 1; ties go to the first ranks."""
    if parts < 1:
        raise PlanError(f"asked for {parts} parts of {total}; ask for at least one")
    if parts > total:
        raise PlanError(
            f"{total} cannot be split into {parts} parts of at least one; use at most {total} parts"
        )
    if weights is None or _alike(parts, weights):
        whole, extra = divmod(total, parts)
        return (whole + 1,) * extra + (whole,) * (parts - extra)
    return _largest_remainder(total, _exact(parts, weights))


def _alike(parts: int, weights: Sequence[float]) -> bool:
    return len(weights) == parts and len(set(weights)) == 1 and 0 < weights[0] < inf


def spans(sizes: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return the half-open spans that shares of these sizes cover, one after the other."""
    return tuple(pairwise(accumulate(sizes, initial=0)))


def groups(sizes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the numbers that shares of these sizes hold, contiguous: experts by rank."""
    return tuple(tuple(range(start, stop)) for start, stop in spans(sizes))


def _largest_remainder(total: int, weights: Sequence[Fraction]) -> tuple[int, ...]:
    """Hamilton's method over the ranks whose quota reaches 1; the others are settled at 1."""
    ranks = range(len(weights))
    free = set(ranks)
    while True:
        unit = (total - (len(weights) - len(free))) / sum(weights[rank] for rank in free)
        reaching = {rank for rank in free if weights[rank] * unit >= 1}
        if reaching == free:
            break
        free = reaching
    quotas = [weights[rank] * unit if rank in free else Fraction(1) for rank in ranks]
    shares = [int(quota) for quota in quotas]
    by_remainder = sorted(ranks, key=lambda rank: shares[rank] - quotas[rank])
    for rank in by_remainder[: total - sum(shares)]:
        shares[rank] += 1
    return tuple(shares)


def _exact(parts: int, weights: Sequence[float]) -> tuple[Fraction, ...]:
    if len(weights) != parts:
        raise PlanError(f"{len(weights)} weights for {parts} parts; give one weight per part")
    for weight in weights:
        if not (isfinite(weight) and weight > 0):
            raise PlanError(f"weight {weight} is not a finite number above 0; give a device speed")
    return tuple(Fraction(weight) for weight in weights)
