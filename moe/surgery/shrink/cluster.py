"""Groups of similar things: agglomeration by average linkage.

Shapes: N things, G groups so far.
"""

import torch
from torch import Tensor


def clusters(similarity_NN: Tensor, wanted: int) -> list[list[int]]:
    """Join the two groups whose members are most similar on average until ``wanted`` are left.

    Members rise within a group, groups by their first member.
    """
    groups = [[number] for number in range(len(similarity_NN))]
    sums_GG = similarity_NN.double().clone()
    while len(groups) > wanted:
        sizes_G = torch.tensor([len(group) for group in groups], dtype=torch.float64)
        mean_GG = sums_GG / (sizes_G[:, None] * sizes_G[None, :])
        mean_GG.masked_fill_(torch.ones_like(mean_GG).tril().bool(), -torch.inf)
        one, other = divmod(int(mean_GG.argmax()), len(groups))
        sums_GG[one] += sums_GG[other]
        sums_GG[:, one] += sums_GG[:, other]
        left = [number for number in range(len(groups)) if number != other]
        sums_GG = sums_GG[left][:, left]
        groups[one] = sorted(groups[one] + groups[other])
        del groups[other]
    return sorted(groups)
