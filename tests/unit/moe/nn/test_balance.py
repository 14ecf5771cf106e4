"""Balance losses against their formulas, and their way into the backward pass."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.config.model import MoeConfig
from moe.nn.balance import (
    Balance,
    BalanceLoss,
    BalanceScope,
    Spread,
    balance_loss,
    device_loss,
    losses,
    spread,
    z_loss,
)
from moe.nn.router import Routing, choose
from moe.nn.statistics import tally
from tests.examples import examples
from tests.routed import KINDS, settings_of

FAST = settings(max_examples=examples(40))
MOE = MoeConfig(4, 2, 8)


def by_formula(kind: str, probabilities: list[list[float]], load: list[int]) -> float:
    experts, tokens = len(load), len(probabilities)
    means = [sum(row[e] for row in probabilities) / tokens for e in range(experts)]
    if kind == "skywork":
        return sum((1 / experts - mean) ** 2 for mean in means)
    return experts * sum(n / sum(load) * mean for n, mean in zip(load, means, strict=True))


def one_set(probabilities: Tensor, load: Tensor) -> Spread:
    tokens = torch.tensor([len(probabilities)])
    return spread(load[None], probabilities.sum(dim=0, keepdim=True), tokens)


def drawn(seed: int, tokens: int, experts: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, experts, generator=generator, dtype=torch.float64)


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
    probabilities = drawn(seed, tokens, len(load)).softmax(1)
    found = balance_loss(kind, one_set(probabilities, torch.tensor(load)))
    assert found.item() == pytest.approx(by_formula(kind, probabilities.tolist(), load))


@FAST
@given(
    tokens=st.integers(1, 9),
    load=st.lists(st.integers(0, 7), min_size=1, max_size=7).filter(any),
    data=st.data(),
)
def test_the_device_loss_equals_its_formula(
    tokens: int, load: list[int], data: st.DataObject
) -> None:
    """Groups of experts are consecutive; the first are larger by one where they are uneven."""
    experts = len(load)
    groups = data.draw(st.integers(1, experts))
    probabilities = drawn(experts, tokens, experts).softmax(1)
    small, larger = divmod(experts, groups)
    sizes = [small + 1] * larger + [small] * (groups - larger)
    expected, first = 0.0, 0
    for size in sizes:
        members = range(first, first + size)
        first += size
        mean_f = sum(experts * load[e] / sum(load) for e in members) / size
        expected += mean_f * sum(probabilities[:, e].mean().item() for e in members)
    found = device_loss(groups, one_set(probabilities, torch.tensor(load)))
    assert found.item() == pytest.approx(expected)


def test_the_z_loss_equals_its_formula() -> None:
    z = drawn(3, 7, 5)
    expected = sum(sum(map(torch.exp, row)).log().item() ** 2 for row in z) / 7
    assert z_loss(z).item() == pytest.approx(expected)
    assert z_loss(z + 1e4).isfinite()
    assert z_loss(torch.zeros(0, 5)).item() == 0.0
    valid = torch.arange(7) % 3 != 0
    assert z_loss(z, valid).item() == pytest.approx(z_loss(z[valid]).item())
    z.requires_grad_()
    z_loss(z, valid).backward()
    assert z.grad is not None
    assert not z.grad[~valid].any()
    assert z.grad[valid].all()


@pytest.mark.parametrize(("kind", "balanced"), [("skywork", 0.0), ("switch", 1.0)])
@pytest.mark.parametrize("experts", [2, 4, 16])
def test_perfect_balance_and_collapse(kind: BalanceLoss, balanced: float, experts: int) -> None:
    even = torch.full((32, experts), 1.0 / experts)
    load = torch.full((experts,), 32 // experts)
    now = one_set(even, load)
    assert balance_loss(kind, now).item() == pytest.approx(balanced, abs=1e-7)
    assert device_loss(2, now).item() == pytest.approx(1.0)
    one = torch.zeros(32, experts).index_fill(1, torch.tensor([0]), 1.0)
    collapsed = one_set(one, 32 * torch.eye(experts)[0])
    worst = {"skywork": 1 - 1 / experts, "switch": float(experts)}
    assert balance_loss(kind, collapsed).item() == pytest.approx(worst[kind])
    assert device_loss(2, collapsed).item() == pytest.approx(2.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", ["micro-batch", "sequence", "global-batch"])
def test_no_tokens_no_loss(kind: BalanceLoss, scope: BalanceScope) -> None:
    nothing = torch.zeros(2, 4, requires_grad=True)
    now = spread(torch.zeros(2, 4, dtype=torch.long), nothing, torch.zeros(2))
    found = losses(settings_of(kind, scope), 0, now, torch.zeros(0, 4, requires_grad=True))
    found.total.backward()
    assert [part.item() for part in found if part is not None] == [0.0] * 4


@st.composite
def sequences(draw: st.DrawFn) -> tuple[Routing, Tensor]:
    """Draw the routing of some sequences, padded on the right."""
    batch, length, experts = draw(st.integers(1, 4)), draw(st.integers(1, 5)), 4
    lengths = draw(st.lists(st.integers(0, length), min_size=batch, max_size=batch))
    z = drawn(draw(st.integers(0, 999)), batch * length, experts)
    valid = torch.arange(length)[None, :] < torch.tensor(lengths)[:, None]
    return choose(z, MOE), valid


def counted(routing: Routing, valid: Tensor, scope: BalanceScope) -> Spread:
    marked = valid.reshape(-1, 1).expand_as(routing.experts)
    return tally(routing, marked, valid).spread(scope)


@FAST
@given(drawn=sequences(), kind=st.sampled_from(KINDS))
def test_the_scope_of_a_sequence_is_the_mean_over_those_with_tokens(
    drawn: tuple[Routing, Tensor], kind: BalanceLoss
) -> None:
    routing, valid = drawn
    expected = []
    for row, mask in enumerate(valid):
        first = row * valid.shape[1]
        tokens = [first + s for s in range(len(mask)) if mask[s]]
        if tokens:
            load = torch.bincount(routing.experts[tokens].flatten(), minlength=4).tolist()
            expected.append(by_formula(kind, routing.probabilities[tokens].tolist(), load))
    mean = sum(expected) / len(expected) if expected else 0.0
    found = balance_loss(kind, counted(routing, valid, "sequence"))
    assert found.item() == pytest.approx(mean)
    tokens = valid.flatten().nonzero().flatten().tolist()
    if tokens:
        load = torch.bincount(routing.experts[tokens].flatten(), minlength=4).tolist()
        pooled = by_formula(kind, routing.probabilities[tokens].tolist(), load)
        found = balance_loss(kind, counted(routing, valid, "micro-batch"))
        assert found.item() == pytest.approx(pooled)


@FAST
@given(kind=st.sampled_from(KINDS), parts=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_true_global_spread_gives_the_gradient_of_the_pooled_loss(
    kind: BalanceLoss, parts: int, seed: int
) -> None:
    """Micro-batches, each weighted by its part of the step, add up to the loss of all of it."""
    z = drawn(seed, 6 * parts, 4).requires_grad_()
    valid = torch.ones(1, 6 * parts, dtype=torch.bool)
    pooled = counted(choose(z, MOE), valid, "micro-batch")
    expected_loss = balance_loss(kind, pooled) + 0.3 * device_loss(3, pooled)
    (expected,) = torch.autograd.grad(expected_loss, z)
    before = Spread(*(part.detach() for part in pooled))
    run = Balance(kind, "global-batch", {7: 1.0}, 0.0, 0.3, 3, {7: before}, 1.0 / parts)
    values = []
    found = torch.zeros_like(z)
    for chunk in z.split(6):
        routing = choose(chunk, MOE)
        own = losses(run, 7, counted(routing, valid[:, :6], "global-batch"), routing.logits)
        found += torch.autograd.grad(own.total, z)[0]
        values.append(own.balance.item())
    torch.testing.assert_close(found, expected)
    truth = balance_loss(kind, before).item()
    assert sum(values) / parts == pytest.approx(truth)
    if kind == "skywork":
        assert values == pytest.approx([truth] * parts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_step_of_the_global_scope_takes_each_micro_batch(kind: BalanceLoss) -> None:
    routing = choose(drawn(1, 6, 4), MOE)
    valid = torch.ones(2, 3, dtype=torch.bool)
    now = counted(routing, valid, "global-batch")
    first, own = (Balance(kind, scope, {0: 1.0}) for scope in ("global-batch", "micro-batch"))
    assert losses(first, 0, now, routing.logits) == losses(own, 0, now, routing.logits)


def test_a_layer_has_its_own_coefficient_and_the_others_are_for_all() -> None:
    routing = choose(drawn(1, 6, 4), MOE)
    now = counted(routing, torch.ones(2, 3, dtype=torch.bool), "micro-batch")
    run = Balance("switch", "micro-batch", {1: 0.5}, 0.02, 0.3, 2, weight=0.25)
    even, device, z = balance_loss("switch", now), device_loss(2, now), z_loss(routing.logits)
    for layer, alpha in ((0, 0.0), (1, 0.5)):
        found = losses(run, layer, now, routing.logits)
        expected = 0.25 * (alpha * even + 0.3 * device + 0.02 * z)
        assert found.total.item() == pytest.approx(expected.item())
    bare = losses(Balance("switch"), 0, now, routing.logits)
    assert (bare.z, bare.device) == (None, None)
    assert bare.total.item() == 0.0
