"""The similarity of experts that lie on many ranks, from a few thousand numbers of each.

A matrix W [R, C] is replaced by S = G W, where the rows of G [m, R] are random signs. Whatever W
and V are, <G W, G V> / m has the mean <W, V>; its deviation falls with m and with C. All ranks draw
the same signs, so the sketches of a layer can be gathered by one sum and compared anywhere, under
any plan, to the same numbers. Equal experts have equal sketches.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from moe.nn.block import MixtureOfExperts
from moe.nn.similarity import cosines, inner_products, mean_of_pairs
from moe.nn.weights.weight import Weight

SIGNS = 8
"""Rows of random signs, m."""


class Alike(NamedTuple):
    """Mean cosine of all pairs of experts of a layer; the most similar pair and its cosine."""

    mean: float
    first: int
    second: int
    most: float


@torch.no_grad()
def alike(mixture: MixtureOfExperts) -> Alike | None:
    """Compare the weights of all experts of the gang; None for a layer of one expert.

    Every member must call it at the same time: one sum of m (2 D + F) numbers for each expert.
    """
    count, experts = mixture.config.experts, mixture.experts
    if count < 2:
        return None
    device = next(mixture.parameters()).device
    sketches_NP = torch.zeros(count, SIGNS * _columns(mixture), device=device)
    for number in experts.numbers:
        sketches_NP[number] = _sketch(mixture, experts.weights(number), device)
    similarity = cosines(inner_products(list(mixture.exchange.leave(sketches_NP)))).cpu()
    upper = similarity.masked_fill(torch.ones_like(similarity).tril().bool(), -torch.inf)
    first, second = divmod(int(upper.argmax()), count)
    return Alike(mean_of_pairs(similarity), first, second, upper[first, second].item())


def _columns(mixture: MixtureOfExperts) -> int:
    """Return the columns of gate, up and down of an expert."""
    return 2 * mixture.hidden_size + mixture.config.expert_size


def _sketch(mixture: MixtureOfExperts, weights: Sequence[Weight], device: torch.device) -> Tensor:
    """Return the products of signs and the weights of gate, up and down of an expert."""
    size = mixture.config.expert_size
    rows = zip((size, size, mixture.hidden_size), weights, strict=True)
    parts = [weight.input_gradient(_signs(count).to(device)) for count, weight in rows]
    return torch.cat([part.flatten() for part in parts])


@lru_cache(maxsize=8)
def _signs(rows: int) -> Tensor:
    source = torch.Generator().manual_seed(rows)
    return torch.randint(2, (SIGNS, rows), generator=source).float() * 2 - 1
