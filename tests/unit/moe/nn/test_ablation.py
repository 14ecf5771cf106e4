"""Ablations of routing against routing by hand, token by token."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.errors import ConfigError
from moe.nn.ablation import Ablation, ablated
from moe.nn.build import build
from moe.nn.decoder import Decoder
from moe.nn.router import Routing
from tests import mixtures, tiny

TOKENS = tiny.tokens(97, 2, 11)


def decoder(family: str, folder: Path) -> Decoder:
    checkpoint = Checkpoint.open(mixtures.made(family, folder / family))
    return build(checkpoint.config, checkpoint.read).eval()


def inside(model: Decoder, layer: int) -> tuple[Tensor, Tensor]:
    """Return the inputs and the outputs [T, D] of one mixture."""
    seen: list[Tensor] = []

    def keep(module: object, given: tuple[Tensor, object], output: tuple[Tensor, object]) -> None:
        seen.extend([given[0].flatten(0, 1), output[0].flatten(0, 1)])

    handle = model.mixture(layer).register_forward_hook(keep)
    with torch.no_grad():
        model(TOKENS)
    handle.remove()
    return seen[0], seen[1]


@pytest.mark.parametrize(
    ("family", "ablation"),
    [
        ("deepseek", Ablation(mask=Fraction(1, 3))),
        ("deepseek", Ablation(top_k=1)),
        ("deepseek", Ablation(shared=False)),
        ("deepseek", Ablation(Fraction(1, 6), 3, shared=False)),
        ("mixtral", Ablation(mask=Fraction(1, 2))),
        ("skywork_moe", Ablation(top_k=4)),
        ("qwen2_moe", Ablation(shared=False, top_k=2)),
        ("raymoe", Ablation(mask=Fraction(1, 8), top_k=1)),
    ],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_the_next_best_experts_serve(family: str, ablation: Ablation, tmp_path: Path) -> None:
    model = decoder(family, tmp_path)
    layer = model.config.moe_layers[0]
    mixture, moe = model.mixture(layer), model.config.moe
    assert moe is not None
    ablation.check(model.config)
    routings: list[Routing] = []
    mixture.router.register_forward_hook(lambda module, given, routing: routings.append(routing))
    x, before = inside(model, layer)
    with ablated(model, ablation):
        _, after = inside(model, layer)
    scores = routings[0].scores
    bias = mixture.router.balance_bias
    expected = torch.zeros_like(after)
    for token, row in enumerate(x):
        merit = scores[token] if bias is None else scores[token] + bias
        if moe.groups > 1:
            groups = merit.view(moe.groups, -1)
            best = groups.topk(2).values.sum(1).argmax()
            merit = torch.full_like(groups, -1e9).index_copy(0, best[None], groups[best][None])
            merit = merit.flatten()
        ranked = merit.argsort(descending=True)[ablation.passed(moe) :][: ablation.taken(moe)]
        weights = scores[token][ranked]
        weights = weights / weights.sum() if moe.renormalise else weights
        for number, weight in zip(ranked.tolist(), weights * moe.scale, strict=True):
            expected[token] += weight * mixture.experts[str(number)](row[None])[0]
        if moe.shared_size and ablation.shared:
            expected[token] += mixture.shared(row[None])[0]
    torch.testing.assert_close(after, expected.detach(), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, after)
    _, again = inside(model, layer)
    assert torch.equal(before, again), "nothing is left behind"


def test_one_layer_alone(tmp_path: Path) -> None:
    model = decoder("mixtral", tmp_path)
    first, second = inside(model, 0)[1], inside(model, 2)[1]
    with ablated(model, Ablation(top_k=1, layer=2)):
        assert torch.equal(inside(model, 0)[1], first)
        assert not torch.equal(inside(model, 2)[1], second)


def test_settings_are_read() -> None:
    assert Ablation.parsed("mask=1/16") == Ablation(mask=Fraction(1, 16))
    assert Ablation.parsed("no-shared, top-k=3") == Ablation(top_k=3, shared=False)
    for wrong in ("mask=2", "mask=x", "top-k=0", "shared", "", "mask=1/0"):
        with pytest.raises(ConfigError, match="no ablation"):
            Ablation.parsed(wrong)


@pytest.mark.parametrize(
    ("family", "setting", "message"),
    [
        ("mixtral", "no-shared", "no shared expert"),
        ("mixtral", "top-k=2", "takes 2 experts as it is"),
        ("mixtral", "mask=1/100", "less than one of 6 experts"),
        ("mixtral", "mask=5/6", "5 experts passed over and 2 taken are more than the 6"),
        ("raymoe", "top-k=5", "more than the 4 that a token reaches"),
    ],
)
def test_what_has_no_effect_is_refused(
    family: str, setting: str, message: str, tmp_path: Path
) -> None:
    config = Checkpoint.open(mixtures.made(family, tmp_path / "model")).config
    with pytest.raises(ConfigError, match=message):
        Ablation.parsed(setting).check(config)


def test_a_dense_model_has_no_routing_to_go_without(tmp_path: Path) -> None:
    config = Checkpoint.open(tiny.saved(tiny.llama(), tmp_path / "dense")).config
    with pytest.raises(ConfigError, match="the model is dense, no router chooses; give a model"):
        Ablation.parsed("top-k=1").check(config)
