"""Expert similarity against torch's own cosine."""

from itertools import combinations

import pytest
import torch

from moe.nn.similarity import expert_similarity


def test_it_is_the_mean_cosine_of_all_pairs() -> None:
    torch.manual_seed(0)
    experts = [[torch.randn(4, 3), torch.randn(5)] for _ in range(4)]
    flat = [torch.cat([part.flatten() for part in parts]) for parts in experts]
    pairs = [torch.cosine_similarity(a, b, dim=0) for a, b in combinations(flat, 2)]
    assert expert_similarity(experts) == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-6)


def test_copies_are_alike_and_one_expert_is_like_itself() -> None:
    one = [torch.ones(3, 2)]
    assert expert_similarity([one, one, one]) == pytest.approx(1.0)
    assert expert_similarity([one]) == 1.0
