"""Similarity of the experts of a layer (Skywork-MoE section 3 watches it after upcycling).

The paper does not define its measure. Here it is the mean cosine of all pairs of experts, each
flattened into one vector: 1 right after copying, near 0 for experts trained from scratch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def expert_similarity(experts: Sequence[Sequence[Tensor]]) -> float:
    """Return the mean pairwise cosine of the weights of experts; 1 for a single expert."""
    count = len(experts)
    if count < 2:
        return 1.0
    products = torch.zeros(count, count, dtype=torch.float64)
    for tensors in zip(*experts, strict=True):
        flat = torch.stack([tensor.detach().flatten() for tensor in tensors]).float()
        products += (flat @ flat.T).double()
    norms = products.diagonal().sqrt()
    cosines = products / (norms[:, None] * norms[None, :])
    pairs = ~torch.eye(count, dtype=torch.bool)
    return cosines[pairs].mean().item()
