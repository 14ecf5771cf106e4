"""Which expert each expert of the larger model is a copy of.

Experts keep their numbers and their copies come after them, within a group where there are groups.
"""

from collections import Counter
from collections.abc import Sequence

from moe.surgery.growing.options import Growth

Parents = tuple[int, ...]
"""The number of the parent of each new expert."""


def parents_alike(grown: Growth) -> Parents:
    """Return the parents if all experts are copied equally often."""
    return parents_by(grown, [1.0] * grown.before.experts)


def parents_by(grown: Growth, merits: Sequence[float]) -> Parents:
    """Return the parents if every further copy goes to the expert with the most merit per copy."""
    assert grown.before.moe is not None
    groups = grown.before.moe.groups
    size, wanted = grown.before.experts // groups, grown.after.experts // groups
    found: list[int] = []
    for first in range(0, grown.before.experts, size):
        found += [first + n for n in _shared_out(merits[first : first + size], wanted)]
    return tuple(found)


def _shared_out(merits: Sequence[float], wanted: int) -> list[int]:
    found, counts = list(range(len(merits))), [1] * len(merits)
    while len(found) < wanted:
        best = max(found[: len(merits)], key=lambda n: (merits[n] / counts[n], -counts[n], -n))
        counts[best] += 1
        found.append(best)
    return found


def copy_numbers(parents: Parents) -> list[int]:
    """Return for each expert how many with the same parent come before it; 0 for the parents."""
    seen: Counter[int] = Counter()
    found = []
    for parent in parents:
        found.append(seen[parent])
        seen[parent] += 1
    return found
