"""Balance losses against their formulas, and their way into the backward pass."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.nn.balance import BalanceLoss, attach, balance_loss, sharpness
from moe.nn.block import Balancing, MixtureOfExperts
from moe.nn.build import build
from moe.nn.decoder import Decoder, Pass
from moe.nn.dispatch import DROPLESS, Capacity
from moe.nn.loss import IGNORED, cross_entropy_sum
from moe.nn.router import Routing
from tests import tiny

FAST = settings(max_examples=40, deadline=None)
KINDS: list[BalanceLoss] = ["skywork", "switch"]
SCALES = {0: 0.5, 1: 0.0, 2: 0.03}


def by_formula(kind: str, probabilities: list[list[float]], load: list[int]) -> float:
    experts, tokens = len(load), len(probabilities)
    means = [sum(row[e] for row in probabilities) / tokens for e in range(experts)]
    if kind == "skywork":
        return sum((1 / experts - mean) ** 2 for mean in means)
    return experts * sum(n / sum(load) * mean for n, mean in zip(load, means, strict=True))


@FAST
@given(
    kind=st.sampled_from(KINDS),
    tokens=st.integers(1, 9),
    load=st.lists(st.integers(0, 7), min_size=2, max_size=6).filter(any),
    seed=st.integers(0, 999),
)
def test_losses_equal_their_formulas(
    kind: BalanceLoss, tokens: int, load: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(tokens, len(load), generator=generator).double().softmax(1)
    found = balance_loss(kind, probabilities, torch.tensor(load))
    assert found.item() == pytest.approx(by_formula(kind, probabilities.tolist(), load))


@pytest.mark.parametrize(("kind", "balanced"), [("skywork", 0.0), ("switch", 1.0)])
@pytest.mark.parametrize("experts", [2, 4, 16])
def test_perfect_balance_and_collapse(kind: BalanceLoss, balanced: float, experts: int) -> None:
    even = torch.full((32, experts), 1.0 / experts)
    load = torch.full((experts,), 32 // experts)
    assert balance_loss(kind, even, load).item() == pytest.approx(balanced, abs=1e-7)
    one = torch.zeros(32, experts).index_fill(1, torch.tensor([0]), 1.0)
    collapsed = balance_loss(kind, one, 32 * torch.eye(experts)[0]).item()
    worst = {"skywork": 1 - 1 / experts, "switch": float(experts)}
    assert collapsed == pytest.approx(worst[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_no_tokens_no_loss(kind: BalanceLoss) -> None:
    nothing = torch.zeros(0, 4, requires_grad=True)
    loss = balance_loss(kind, nothing, torch.zeros(4, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0
    assert sharpness(nothing).item() == 1.0


def test_sharpness_is_the_mean_ratio_of_the_first_two() -> None:
    rows = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])
    assert sharpness(rows).item() == pytest.approx(2.0)
    assert sharpness(torch.ones(3, 1)).item() == 1.0
    assert sharpness(torch.tensor([[1.0, 0.0]])).isfinite()


def opened(path: Path, **changes: int) -> Checkpoint:
    return Checkpoint.open(tiny.saved(tiny.mixtral(**changes), path))


def routings_of(decoder: Decoder) -> dict[int, list[Routing]]:
    """Collect what every router answers, in the graph."""
    seen: dict[int, list[Routing]] = {}
    for layer, block in decoder.model.layers.items():
        answers = seen.setdefault(int(layer), [])
        block.mlp.router.register_forward_hook(lambda m, i, out, to=answers: to.append(out))
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_layers_collapsed_on_different_experts_do_not_look_balanced(
    kind: BalanceLoss, tmp_path: Path
) -> None:
    """Equal tokens all go the same way in a layer, and another way in the next."""
    checkpoint = opened(tmp_path, num_hidden_layers=2, num_experts_per_tok=2)
    assert checkpoint.config.moe is not None
    moe = replace(checkpoint.config.moe, top_k=1, gate_norm=64.0)
    decoder = build(replace(checkpoint.config, moe=moe), checkpoint.read)
    with torch.no_grad():
        for seed in range(50):
            decoder.model.layers["1"].mlp.router.weight.normal_(
                generator=torch.Generator().manual_seed(seed)
            )
            found = decoder(torch.full((1, 12), 5), Pass(balance=kind)).statistics
            if int(found[0].load.argmax()) != int(found[1].load.argmax()):
                break
    loads = torch.stack([found[layer].load for layer in (0, 1)])
    assert loads.max(dim=1).values.tolist() == [12, 12]
    assert loads.sum(dim=0).max() == 12, "pooled over layers two experts share the load"
    for layer in (0, 1):
        worst = {"skywork": 0.75, "switch": 4.0}[kind]
        assert found[layer].balance_loss.item() > 0.7 * worst
        assert found[layer].drop_rate.item() == pytest.approx(0.75)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_those_of_each_layer_s_own_routing(
    kind: BalanceLoss, tmp_path: Path
) -> None:
    checkpoint = opened(tmp_path)
    decoder = build(checkpoint.config, checkpoint.read)
    seen = routings_of(decoder)
    run = Pass(balance=kind, capacity=Capacity(virtual_factor=1.25))
    statistics = decoder(tiny.tokens(97, 2, 11), run).statistics
    assert sorted(statistics) == [0, 1, 2]
    for layer, ((probabilities, experts, _),) in seen.items():
        load = [int((experts == e).sum()) for e in range(4)]
        assert statistics[layer].load.tolist() == load
        expected = by_formula(kind, probabilities.tolist(), load)
        assert statistics[layer].balance_loss.item() == pytest.approx(expected, rel=1e-5)
        dropped = sum(max(0, n - 14) for n in load)
        assert statistics[layer].drop_rate.item() == pytest.approx(dropped / 44)
        assert not any(part.requires_grad for part in statistics[layer])


def test_attach_keeps_the_value_and_adds_the_gradient() -> None:
    x, z = torch.randn(4, 3, requires_grad=True), torch.randn(5, requires_grad=True)
    y = attach(x, z.square().sum())
    assert torch.equal(y, x)
    y.sin().sum().backward()
    torch.testing.assert_close(x.grad, x.detach().cos())
    torch.testing.assert_close(z.grad, 2 * z.detach())


def explicit(kind: BalanceLoss, routing: Routing, experts: int) -> Tensor:
    mean = routing.probabilities.mean(0)
    if kind == "skywork":
        return ((mean - 1 / experts) ** 2).sum()
    share = torch.nn.functional.one_hot(routing.experts, experts).sum((0, 1)).float()
    return experts * (mean * share / share.sum()).sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capacity", [DROPLESS, Capacity(0.75)])
def test_attached_gradients_equal_the_explicit_loss_under_accumulation(
    kind: BalanceLoss, capacity: Capacity, tmp_path: Path
) -> None:
    checkpoint = opened(tmp_path)
    batches = tiny.tokens(97, 4, 10).split(1)
    attached, plain = (build(checkpoint.config, checkpoint.read) for _ in range(2))
    seen = routings_of(plain)
    scales = {layer: alpha / len(batches) for layer, alpha in SCALES.items()}
    for batch in batches:
        cross_entropy(attached, batch, Pass(capacity, kind, scales)).backward()
        loss = cross_entropy(plain, batch, Pass(capacity, kind))
        for layer, (routing,) in seen.items():
            loss = loss + scales[layer] * explicit(kind, routing, 4)
        loss.backward()
        for answers in seen.values():
            answers.clear()
    expected = dict(plain.named_parameters())
    for name, parameter in attached.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-6)
    bare = build(checkpoint.config, checkpoint.read)
    for batch in batches:
        cross_entropy(bare, batch, Pass(capacity, kind)).backward()
    router = "model.layers.0.mlp.router.weight"
    pulled = expected[router].grad - dict(bare.named_parameters())[router].grad
    assert pulled.abs().max() > 1e-4, "the balance loss must be felt, or nothing was compared"


def cross_entropy(decoder: Decoder, tokens: Tensor, run: Pass) -> Tensor:
    logits = decoder(tokens, run).values
    return cross_entropy_sum(logits[:, :-1], tokens[:, 1:]) / 36


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capacity", [DROPLESS, Capacity(0.75), Capacity(0.5, "position")])
def test_padding_changes_no_logit_statistic_or_gradient(
    kind: BalanceLoss, capacity: Capacity, tmp_path: Path
) -> None:
    checkpoint = opened(tmp_path)
    tokens = tiny.tokens(97, 1, 7)
    labels = tokens.roll(-1, dims=1)
    short, padded = (build(checkpoint.config, checkpoint.read) for _ in range(2))
    expected = short(tokens, Pass(capacity, kind, SCALES))
    cross_entropy_sum(expected.values, labels).backward()
    valid = torch.arange(12)[None, :] < 7
    run = Pass(capacity, kind, SCALES, valid=valid)
    found = padded(torch.nn.functional.pad(tokens, (0, 5)), run)
    cross_entropy_sum(
        found.values, torch.nn.functional.pad(labels, (0, 5), value=IGNORED)
    ).backward()
    torch.testing.assert_close(found.values[:, :7], expected.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.statistics, expected.statistics)
    gradients = {name: parameter.grad for name, parameter in short.named_parameters()}
    for name, parameter in padded.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5)


def test_a_batch_of_nothing_but_padding_is_finite(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    decoder = build(checkpoint.config, checkpoint.read)
    run = Pass(Capacity(1.0), "switch", SCALES, valid=torch.zeros(2, 6, dtype=torch.bool))
    output = decoder(tiny.tokens(97, 2, 6), run)
    output.values.sum().backward()
    for statistics in output.statistics.values():
        assert all(part.isfinite().all() for part in statistics)
        assert not statistics.load.any()
    for parameter in decoder.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_a_mixture_s_padding_rows_are_nought(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    block = build(checkpoint.config, checkpoint.read).model.layers["0"]
    assert isinstance(block.mlp, MixtureOfExperts)
    valid = torch.tensor([[True, False, True]])
    y, _ = block.mlp(torch.randn(1, 3, 24), DROPLESS, Balancing(), valid)
    assert y.detach().abs().sum(-1).ne(0).tolist() == valid.tolist()
