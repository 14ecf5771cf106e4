"""Divides the columns of a feed-forward into sets of equal size, at random or by activity.

Columns that are active on the same tokens belong together: then a token needs few experts. The
measure is the activation vector of a column over calibration tokens, ``|silu(gate x) * (up x)|``
(LLaMA-MoE section 3.1 calls it co-activation), scaled to unit length, so that the pattern of tokens
counts and not the strength. Balanced k-means: Lloyd's steps with assignment in rounds; in each
round every column applies to the nearest set that is not full, and each set accepts the nearest
applicants. Activity may be 16-bit; blocks of rows are converted to float32 when needed.

Shapes: C columns, T tokens, M sets.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from moe.surgery.blocks import ACTIVITY_ELEMENTS, spans

_STEPS = 30


def random_sets(columns: int, sets: int, source: torch.Generator) -> list[Tensor]:
    """Return disjoint sets of equal size, drawn at random."""
    order = torch.randperm(columns, generator=source)
    return [part.sort().values for part in order.chunk(sets)]


def clusters(activity_CT: Tensor, sets: int, source: torch.Generator) -> list[Tensor]:
    """Return disjoint sets of equal size, clustered by activity."""
    columns = len(activity_CT)
    first = torch.randperm(columns, generator=source)[:sets]
    centres_MT = F.normalize(activity_CT[first].float(), dim=1)
    chosen_C = torch.full((columns,), -1)
    for _ in range(_STEPS):
        distances = [torch.cdist(points, centres_MT) for _, points in _points(activity_CT)]
        before_C, chosen_C = chosen_C, assign(torch.cat(distances))
        if torch.equal(before_C, chosen_C):
            break
        centres_MT = torch.zeros_like(centres_MT)
        for place, points in _points(activity_CT):
            centres_MT.index_add_(0, chosen_C[place], points)
        centres_MT /= columns // sets
    return [(chosen_C == number).nonzero().flatten() for number in range(sets)]


def assign(distance_CM: Tensor) -> Tensor:
    """Return a set for every column, [C], so that all sets have equal size; M must divide C."""
    columns, sets = distance_CM.shape
    room = [columns // sets] * sets
    distance_CM = distance_CM.clone()
    chosen_C = torch.full((columns,), -1)
    while (waiting := (chosen_C < 0).nonzero().flatten()).numel():
        nearest, asked = distance_CM[waiting].min(dim=1)
        for number in sorted(set(asked.tolist())):
            asking = (asked == number).nonzero().flatten()
            taken = asking[nearest[asking].argsort(stable=True)[: room[number]]]
            chosen_C[waiting[taken]] = number
            room[number] -= len(taken)
            if not room[number]:
                distance_CM[:, number] = torch.inf
    return chosen_C


def strongest(activity_CT: Tensor, count: int) -> Tensor:
    """Return the columns with the largest mean activity."""
    runs = spans(activity_CT, ACTIVITY_ELEMENTS)
    means = [activity_CT[start:stop].float().mean(dim=1) for start, stop in runs]
    return torch.cat(means).argsort(descending=True, stable=True)[:count]


def _points(activity_CT: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of rows in float32, of length one, with their positions."""
    for start, stop in spans(activity_CT, ACTIVITY_ELEMENTS):
        yield slice(start, stop), F.normalize(activity_CT[start:stop].float(), dim=1)
