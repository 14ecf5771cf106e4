"""Balance losses where they act: in a decoder, under any schedule, with padding."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.config.share import whole
from moe.nn.balance import (
    Balance,
    BalanceLoss,
    BalanceScope,
    attach,
)
from moe.nn.block import MixtureOfExperts
from moe.nn.build import build
from moe.nn.decoder import Decoder, Pass
from moe.nn.dispatch import DROPLESS, Capacity
from moe.nn.layer_pass import LayerPass
from moe.nn.loss import IGNORED, cross_entropy_sum
from moe.nn.router import Routing
from tests import tiny
from tests.routed import KINDS, settings_of


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
            run = Pass(balance=Balance(kind))
            found = decoder(torch.full((1, 12), 5), run).statistics
            if int(found[0].load.argmax()) != int(found[1].load.argmax()):
                break
    loads = torch.stack([found[layer].load for layer in (0, 1)])
    assert loads.max(dim=1).values.tolist() == [12, 12]
    assert loads.sum(dim=0).max() == 12, "pooled over layers two experts share the load"
    for layer in (0, 1):
        worst = {"skywork": 0.75, "switch": 4.0}[kind]
        assert found[layer].balance_loss.item() > 0.7 * worst
        assert found[layer].drop_rate.item() == pytest.approx(0.75)


def test_attach_keeps_the_value_and_adds_the_gradient() -> None:
    x, z = torch.randn(4, 3, requires_grad=True), torch.randn(5, requires_grad=True)
    y = attach(x, z.square().sum())
    assert torch.equal(y, x)
    y.sin().sum().backward()
    torch.testing.assert_close(x.grad, x.detach().cos())
    torch.testing.assert_close(z.grad, 2 * z.detach())


def explicit(run: Balance, layer: int, routing: Routing) -> Tensor:
    """Return the losses of a router from what it answered for one sequence."""
    mean, experts = routing.probabilities.mean(0), routing.probabilities.shape[1]
    share = torch.nn.functional.one_hot(routing.experts, experts).sum((0, 1)).float()
    share = share / share.sum()
    known = run.before.get(layer)
    if known is not None:
        share = known.shares[0]
    even = experts * (mean * share).sum()
    if run.kind == "skywork":
        even = ((mean - 1 / experts) ** 2).sum()
        if known is not None:
            even = (2 * (known.probabilities[0] - 1 / experts) * mean).sum()
    parts = zip(share.tensor_split(3), mean.tensor_split(3), strict=True)
    device = experts * sum(f.mean() * p.sum() for f, p in parts)
    z = routing.logits.exp().sum(1).log().square().mean()
    return run.coefficients[layer] * even + run.device * device + run.z * z


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", ["micro-batch", "sequence", "global-batch"])
@pytest.mark.parametrize("capacity", [DROPLESS, Capacity(0.75)])
def test_attached_gradients_equal_the_explicit_loss_under_accumulation(
    kind: BalanceLoss, scope: BalanceScope, capacity: Capacity, tmp_path: Path
) -> None:
    checkpoint = opened(tmp_path)
    batches = tiny.tokens(97, 4, 10).split(1)
    attached, plain = (build(checkpoint.config, checkpoint.read) for _ in range(2))
    seen = routings_of(plain)
    run = replace(settings_of(kind, scope), weight=1.0 / len(batches))
    for batch in batches:
        cross_entropy(attached, batch, Pass(capacity, run)).backward()
        loss = cross_entropy(plain, batch, Pass(capacity))
        for layer, (routing,) in seen.items():
            loss = loss + explicit(run, layer, routing) / len(batches)
        loss.backward()
        for answers in seen.values():
            answers.clear()
    check_gradients(attached, plain)
    bare = build(checkpoint.config, checkpoint.read)
    for batch in batches:
        cross_entropy(bare, batch, Pass(capacity)).backward()
    router = "model.layers.0.mlp.router.weight"
    pulled = parameter(plain, router).grad - parameter(bare, router).grad
    assert pulled.abs().max() > 1e-4, "the losses must be felt, or nothing was compared"


def check_gradients(found: Decoder, expected: Decoder) -> None:
    for name, own in found.named_parameters():
        torch.testing.assert_close(own.grad, parameter(expected, name).grad, rtol=1e-4, atol=1e-6)


def parameter(decoder: Decoder, name: str) -> Tensor:
    return dict(decoder.named_parameters())[name]


def cross_entropy(decoder: Decoder, x: Tensor, run: Pass, tokens: Tensor | None = None) -> Tensor:
    """Return the loss of tokens, or of hidden states that come from them."""
    tokens = x if tokens is None else tokens
    return cross_entropy_sum(decoder(x, run).values[:, :-1], tokens[:, 1:]) / 36


GPIPE = "F0 F1 F2 F3 B0 B1 B2 B3"
ONE_FORWARD_ONE_BACKWARD = "F0 F1 B0 F2 B1 F3 B2 B3"


@pytest.mark.parametrize("order", [GPIPE, ONE_FORWARD_ONE_BACKWARD, "F0 F1 F2 F3 B3 B1 B0 B2"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_a_schedule_changes_no_gradient(
    order: str, kind: BalanceLoss, tmp_path: Path
) -> None:
    """Two stages, each with a part of the graph of its own, as a pipeline runs them."""
    checkpoint = opened(tmp_path, tie_word_embeddings=False)
    batches = tiny.tokens(97, 4, 10).split(1)
    run = Pass(Capacity(0.8), replace(settings_of(kind), weight=0.25))
    one = build(checkpoint.config, checkpoint.read)
    for batch in batches:
        cross_entropy(one, batch, run).backward()
    first = replace(whole(checkpoint.config), layers=(0, 2), head=False)
    second = replace(whole(checkpoint.config), layers=(2, 3), embedding=False)
    stages = [build(checkpoint.config, checkpoint.read, share) for share in (first, second)]
    _run_in_order(order, stages, batches, run)
    for stage in stages:
        check_gradients(stage, one)


def _run_in_order(order: str, stages: list[Decoder], batches: list[Tensor], run: Pass) -> None:
    sent: dict[str, Tensor] = {}
    received: dict[str, Tensor] = {}
    ends: dict[str, Tensor] = {}
    for action, number in order.split():
        batch = batches[int(number)]
        if action == "F":
            sent[number] = stages[0](batch, run).values
            received[number] = sent[number].detach().requires_grad_()
            ends[number] = cross_entropy(stages[1], received[number], run, batch)
        else:
            ends.pop(number).backward()
            sent.pop(number).backward(received.pop(number).grad)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", ["micro-batch", "sequence", "global-batch"])
@pytest.mark.parametrize(
    "capacity",
    [DROPLESS, Capacity(0.75), Capacity(0.5, "position"), Capacity(0.8, chooser="experts")],
)
def test_padding_changes_no_logit_statistic_or_gradient(
    kind: BalanceLoss, scope: BalanceScope, capacity: Capacity, tmp_path: Path
) -> None:
    checkpoint = opened(tmp_path)
    tokens = tiny.tokens(97, 1, 7)
    labels = tokens.roll(-1, dims=1)
    short, padded = (build(checkpoint.config, checkpoint.read) for _ in range(2))
    run = Pass(capacity, settings_of(kind, scope))
    expected = short(tokens, run)
    cross_entropy_sum(expected.values, labels).backward()
    run = replace(run, valid=torch.arange(12)[None, :] < 7)
    found = padded(torch.nn.functional.pad(tokens, (0, 5)), run)
    cross_entropy_sum(
        found.values, torch.nn.functional.pad(labels, (0, 5), value=IGNORED)
    ).backward()
    torch.testing.assert_close(found.values[:, :7], expected.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.statistics, expected.statistics)
    gradients = {name: parameter.grad for name, parameter in short.named_parameters()}
    for name, parameter in padded.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("capacity", [Capacity(1.0), Capacity(1.0, chooser="experts")])
@pytest.mark.parametrize("scope", ["micro-batch", "sequence"])
def test_a_batch_of_nothing_but_padding_is_finite(
    capacity: Capacity, scope: BalanceScope, tmp_path: Path
) -> None:
    checkpoint = opened(tmp_path)
    decoder = build(checkpoint.config, checkpoint.read)
    run = Pass(capacity, settings_of("switch", scope), valid=torch.zeros(2, 6, dtype=torch.bool))
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
    y, _ = block.mlp(torch.randn(1, 3, 24), LayerPass(valid=valid))
    assert y.detach().abs().sum(-1).ne(0).tolist() == valid.tolist()
