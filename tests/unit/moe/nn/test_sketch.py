"""Sketches of experts against their exact cosines."""

from dataclasses import replace

import pytest
import torch

from moe.config.model import MoeConfig
from moe.config.share import whole
from moe.nn.block import MixtureOfExperts
from moe.nn.exchange import Alone
from moe.nn.similarity import cosines, inner_products, mean_of_pairs
from moe.nn.sketch import SIGNS, alike
from tests.mixtures import SKYWORK


def mixture(experts: int, common: float) -> MixtureOfExperts:
    """Return a mixture whose experts share a part of their weights."""
    moe = MoeConfig(experts, 1, 48)
    config = replace(SKYWORK, hidden_size=64, ffn_size=48, moe=moe)
    made = MixtureOfExperts(config, moe, 0, whole(config), Alone())
    source = torch.Generator().manual_seed(5)
    with torch.no_grad():
        shared: dict[str, torch.Tensor] = {}
        for expert in made.experts.values():
            for name, weight in expert.named_parameters():
                first = shared.setdefault(name, torch.randn(weight.shape, generator=source))
                own = torch.randn(weight.shape, generator=source)
                weight.copy_(common * first + own)
    return made


@pytest.mark.parametrize("common", [0.0, 0.5, 2.0])
def test_sketches_tell_the_cosines(common: float) -> None:
    made = mixture(5, common)
    products = torch.zeros(5, 5, dtype=torch.float64)
    for part in zip(*(expert.parameters() for expert in made.experts.values()), strict=True):
        products += inner_products(part)
    exact, found = cosines(products), alike(made)
    assert found is not None
    deviation = (SIGNS * (2 * 64 + 48)) ** -0.5
    assert found.mean == pytest.approx(mean_of_pairs(exact), abs=2 * deviation)
    assert found.most == pytest.approx(exact[found.first, found.second].item(), abs=4 * deviation)
    assert found.first < found.second


def test_equal_experts_are_found_to_be_equal() -> None:
    made = mixture(4, 0.3)
    made.experts["3"].load_state_dict(made.experts["1"].state_dict())
    found = alike(made)
    assert found is not None
    assert found[1:3] == (1, 3)
    assert found.most == pytest.approx(1.0, abs=1e-6)


def test_a_single_expert_is_like_no_other() -> None:
    assert alike(mixture(1, 0.0)) is None
