"""Expert similarity against torch's own cosine."""

from collections.abc import Sequence
from itertools import combinations

import pytest
import torch
from torch import Tensor

from moe.nn.similarity import cosines, inner_products, mean_of_pairs


def test_it_is_the_mean_cosine_of_all_pairs() -> None:
    torch.manual_seed(0)
    experts = [[torch.randn(4, 3), torch.randn(5)] for _ in range(4)]
    flat = [torch.cat([part.flatten() for part in parts]) for parts in experts]
    pairs = [torch.cosine_similarity(a, b, dim=0) for a, b in combinations(flat, 2)]
    assert similarity(experts) == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-6)


def test_copies_are_alike_and_one_expert_is_like_itself() -> None:
    one = [torch.ones(3, 2)]
    assert similarity([one, one, one]) == pytest.approx(1.0)
    assert similarity([one]) == 1.0


def similarity(experts: Sequence[Sequence[Tensor]]) -> float:
    """Return the mean cosine of experts, each of several tensors."""
    products = [inner_products(alike) for alike in zip(*experts, strict=True)]
    return mean_of_pairs(cosines(torch.stack(products).sum(dim=0)))
