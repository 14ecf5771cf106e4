"""The columns of a feed-forward divided into sets of equal size, at random or by what they answer.

Columns that answer the same tokens belong together: then a token needs few experts. The measure is
the activation vector of a column over calibration tokens, ``|silu(gate x) * (up x)|`` (LLaMA-MoE
section 3.1 calls it co-activation), scaled to unit length so that what counts is which tokens, not
how strongly. Balanced k-means: Lloyd's steps, the assignment by rounds in which every column asks
the nearest set with room and each set takes the nearest of those who ask.

Shapes: C columns, T tokens, M sets.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_STEPS = 30


def random_sets(columns: int, sets: int, source: torch.Generator) -> list[Tensor]:
    """Return disjoint sets of equal size, drawn at random."""
    order = torch.randperm(columns, generator=source)
    return [part.sort().values for part in order.chunk(sets)]


def clusters(activity_CT: Tensor, sets: int, source: torch.Generator) -> list[Tensor]:
    """Return disjoint sets of equal size whose columns answer alike."""
    points_CT = F.normalize(activity_CT.float(), dim=1)
    first = torch.randperm(len(points_CT), generator=source)[:sets]
    centres_MT = points_CT[first]
    chosen_C = torch.full((len(points_CT),), -1)
    for _ in range(_STEPS):
        before_C, chosen_C = chosen_C, assign(torch.cdist(points_CT, centres_MT))
        if torch.equal(before_C, chosen_C):
            break
        members_MC = F.one_hot(chosen_C, sets).T.float()
        centres_MT = members_MC @ points_CT / (len(points_CT) // sets)
    return [(chosen_C == number).nonzero().flatten() for number in range(sets)]


def assign(distance_CM: Tensor) -> Tensor:
    """Return a set for every column, [C], so that all sets are of one size; C divides by M."""
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
    return activity_CT.float().mean(dim=1).argsort(descending=True, stable=True)[:count]
