"""What is told of a layer's routing against counting by hand."""

from pathlib import Path

import pytest
import torch

from moe.checkpoint.reader import Checkpoint
from moe.nn.balance import Balance, BalanceLoss
from moe.nn.build import build
from moe.nn.decoder import Decoder, Pass
from moe.nn.dispatch import Capacity
from moe.nn.router import Routing
from moe.nn.statistics import sharpness
from tests import tiny


def test_sharpness_is_the_mean_ratio_of_the_first_two() -> None:
    rows = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])
    assert sharpness(rows).item() == pytest.approx(2.0)
    assert sharpness(torch.ones(3, 1)).item() == 1.0
    assert sharpness(torch.zeros(0, 4)).item() == 1.0
    assert sharpness(torch.tensor([[1.0, 0.0]])).isfinite()
    assert sharpness(rows, torch.tensor([False, True])).item() == 2.0
    assert sharpness(rows, torch.tensor([False, False])).item() == 1.0


def routings_of(decoder: Decoder) -> dict[int, Routing]:
    """Keep what every router answers."""
    seen: dict[int, Routing] = {}

    def keep(number: int, routing: Routing) -> None:
        seen[number] = routing

    for layer, block in decoder.model.layers.items():
        block.mlp.router.register_forward_hook(
            lambda module, inputs, routing, number=int(layer): keep(number, routing)
        )
    return seen


@pytest.mark.parametrize("kind", ["skywork", "switch"])
def test_statistics_are_those_of_each_layer_s_own_routing(
    kind: BalanceLoss, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(tiny.saved(tiny.mixtral(), tmp_path))
    decoder = build(checkpoint.config, checkpoint.read)
    seen = routings_of(decoder)
    run = Pass(Capacity(virtual_factor=1.25), Balance(kind, z=0.1))
    found = decoder(tiny.tokens(97, 2, 11), run).statistics
    assert sorted(found) == [0, 1, 2]
    for layer, routing in seen.items():
        load = [int((routing.experts == e).sum()) for e in range(4)]
        means = routing.probabilities.mean(dim=0).tolist()
        assert found[layer].tokens.item() == 22
        assert found[layer].load.tolist() == load
        assert found[layer].probability.tolist() == pytest.approx(means)
        even = sum((0.25 - mean) ** 2 for mean in means)
        if kind == "switch":
            even = 4 * sum(n / 44 * mean for n, mean in zip(load, means, strict=True))
        assert found[layer].balance_loss.item() == pytest.approx(even, rel=1e-5)
        dropped = sum(max(0, n - 14) for n in load)
        assert found[layer].drop_rate.item() == pytest.approx(dropped / 44)
        z = routing.logits.logsumexp(1).square().mean()
        assert found[layer].z_loss == pytest.approx(z.item())
        assert found[layer].device_loss is None
        assert not any(part.requires_grad for part in found[layer] if part is not None)


def test_what_is_not_measured_computes_the_same_and_tells_nothing(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny.saved(tiny.mixtral(), tmp_path))
    decoder, tokens = build(checkpoint.config, checkpoint.read), tiny.tokens(97, 2, 11)
    found, expected = decoder(tokens, Pass(measured=False)), decoder(tokens, Pass())
    assert torch.equal(found.values, expected.values)
    assert not found.statistics


def test_experts_that_choose_report_what_they_took_and_whom_they_left(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny.saved(tiny.mixtral(), tmp_path))
    decoder = build(checkpoint.config, checkpoint.read)
    seen = routings_of(decoder)
    run = Pass(Capacity(0.5, chooser="experts"))
    found = decoder(tiny.tokens(97, 2, 11), run).statistics
    for layer, routing in seen.items():
        taken = routing.scores.topk(6, dim=0).indices
        assert found[layer].load.tolist() == [6, 6, 6, 6]
        left = 22 - len(taken.unique())
        assert found[layer].drop_rate.item() == pytest.approx(left / 22)
