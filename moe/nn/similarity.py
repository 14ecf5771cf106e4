"""Similarity of the experts of a layer (Skywork-MoE section 3 watches it after upcycling).

The paper does not define its measure. Here it is the mean cosine of all pairs of experts, each
flattened into one vector: 1 right after copying, near 0 for experts trained from scratch.

Shapes: N experts, P numbers of an expert.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def inner_products(tensors: Sequence[Tensor]) -> Tensor:
    """Return the products of all pairs of tensors of one shape, each flattened, [N, N] in
    float64.
    """
    flat_NP = torch.stack([tensor.detach().flatten() for tensor in tensors]).float()
    return (flat_NP @ flat_NP.T).double()


def cosines(products_NN: Tensor) -> Tensor:
    """Return the cosines [N, N] that belong to inner products; 0 for a vector of zeros."""
    norms_N = products_NN.diagonal().clamp(min=0).sqrt()
    scale_NN = norms_N[:, None] * norms_N[None, :]
    return torch.where(scale_NN > 0, products_NN / scale_NN, 0.0)


def mean_of_pairs(similarity_NN: Tensor) -> float:
    """Return the mean over all pairs of different experts; 1 for a single expert."""
    count = len(similarity_NN)
    if count < 2:
        return 1.0
    pairs_NN = ~torch.eye(count, dtype=torch.bool, device=similarity_NN.device)
    return similarity_NN[pairs_NN].mean().item()
