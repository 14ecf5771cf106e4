"""The gate against the papers' formulas, the released code's rule, and transformers' routers."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DeepseekV3Config, Glm4MoeConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeTopkRouter

from moe.config.model import MoeConfig
from moe.nn.router import Router, Routing, choose, hashed, normalise_logits
from tests.examples import examples

FAST = settings(max_examples=examples(40))
WITHOUT_EPSILON = {"rtol": 1e-5, "atol": 1e-5}
NORMS = st.sampled_from([0.5, 1.0, 2.0])


def logits(seed: int, tokens: int, experts: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(tokens, experts, generator=generator, dtype=torch.float64)
    return scale * drawn + 3.0


def moe(experts: int, top_k: int, gate_norm: float | None = None, renorm: bool = True) -> MoeConfig:
    return MoeConfig(experts, top_k, 8, gate_norm, renorm)


@FAST
@given(seed=st.integers(0, 999), experts=st.integers(2, 16), norm=NORMS)
def test_probabilities_are_those_of_the_paper(seed: int, experts: int, norm: float) -> None:
    z = logits(seed, 7, experts)
    centred = z - z.mean(dim=1, keepdim=True)
    unbiased = (centred.square().sum(dim=1, keepdim=True) / (experts - 1)).sqrt()
    expected = torch.softmax(norm * centred / unbiased, dim=1)
    found = choose(z, moe(experts, 1, norm)).probabilities
    torch.testing.assert_close(found, expected, **WITHOUT_EPSILON)


@FAST
@given(seed=st.integers(0, 999), experts=st.integers(2, 16), norm=NORMS)
def test_probabilities_are_those_of_the_released_code(seed: int, experts: int, norm: float) -> None:
    """Which leaves the mean in: no softmax sees it."""
    z = logits(seed, 7, experts)
    released = torch.stack([row / (torch.std(row) / norm) for row in z])
    found, expected = normalise_logits(z, norm), released.softmax(dim=1)
    torch.testing.assert_close(found.softmax(dim=1), expected, **WITHOUT_EPSILON)


def test_normalising_removes_the_scale_of_the_logits() -> None:
    small, large = logits(1, 5, 8, 0.01), logits(1, 5, 8, 0.01) * 1000
    one, other = choose(small, moe(8, 2, 1.0)), choose(large, moe(8, 2, 1.0))
    torch.testing.assert_close(one.probabilities, other.probabilities)
    plain, other = choose(small, moe(8, 2)), choose(large, moe(8, 2))
    assert not torch.allclose(plain.probabilities, other.probabilities, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0, -37.5])
@pytest.mark.parametrize("experts", [1, 2, 16])
def test_constant_logits_stay_finite(value: float, experts: int) -> None:
    z = torch.full((3, experts), value, requires_grad=True)
    routing = choose(z, moe(experts, 1, 1.0))
    torch.testing.assert_close(routing.probabilities, torch.full((3, experts), 1.0 / experts))
    (routing.probabilities * torch.arange(experts)).sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


@FAST
@given(seed=st.integers(0, 999), experts=st.integers(1, 9), data=st.data())
def test_the_k_largest_are_chosen_with_their_share(
    seed: int, experts: int, data: st.DataObject
) -> None:
    top_k = data.draw(st.integers(1, experts))
    z = logits(seed, 6, experts)
    kept, raw = choose(z, moe(experts, top_k)), choose(z, moe(experts, top_k, renorm=False))
    for token, row in enumerate(torch.softmax(z, dim=1).tolist()):
        best = sorted(range(experts), key=lambda e: -row[e])[:top_k]
        total = sum(row[e] for e in best)
        assert kept.experts[token].tolist() == raw.experts[token].tolist() == best
        assert raw.weights[token].tolist() == pytest.approx([row[e] for e in best])
        assert kept.weights[token].tolist() == pytest.approx([row[e] / total for e in best])


def test_softmax_before_or_after_the_choice_gives_the_same_weights() -> None:
    z = logits(5, 9, 8)
    routing = choose(z, moe(8, 3))
    torch.testing.assert_close(routing.weights, torch.softmax(z.topk(3).values, dim=1))


def test_the_gate_computes_in_float32_whatever_the_model() -> None:
    torch.manual_seed(0)
    router = Router(32, moe(8, 2, 1.0), 0).bfloat16()
    torch.nn.init.normal_(router.weight)
    x = torch.randn(50, 32).bfloat16()
    routing = router(x)
    assert routing.probabilities.dtype == routing.weights.dtype == torch.float32
    expected = choose(x.double() @ router.weight.double().T, moe(8, 2, 1.0))
    torch.testing.assert_close(routing.probabilities, expected.probabilities.float())


def test_the_gradient_of_the_normalised_gate_is_right() -> None:
    z = logits(2, 3, 5).requires_grad_()
    config = moe(5, 2, 2.0)
    assert torch.autograd.gradcheck(lambda z: differentiable(choose(z, config)), (z,))


def differentiable(routing: Routing) -> tuple[torch.Tensor, ...]:
    return routing.scores, routing.probabilities, routing.weights


@st.composite
def configs(draw: st.DrawFn) -> MoeConfig:
    groups, members = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    top_groups = draw(st.integers(1, groups))
    score = draw(st.sampled_from(["softmax", "sigmoid"]))
    return MoeConfig(
        experts=groups * members,
        top_k=draw(st.integers(1, top_groups * members)),
        expert_size=8,
        gate_norm=draw(st.sampled_from([None, 1.0])),
        renormalise=draw(st.booleans()),
        score=score,
        softmax_after=score == "softmax" and draw(st.booleans()),
        scale=draw(st.sampled_from([1.0, 2.5])),
        balance_bias=draw(st.booleans()),
        groups=groups,
        top_groups=top_groups,
    )


def by_hand(z: list[float], config: MoeConfig, bias: list[float]) -> tuple[list[int], list[float]]:
    """Return the experts of one token, best first, and their weights."""
    n = len(z)
    if config.gate_norm is not None and n > 1:
        mean = sum(z) / n
        deviation = math.sqrt(sum((x - mean) ** 2 for x in z) / (n - 1))
        z = [(x - mean) * config.gate_norm / deviation for x in z]
    if config.score == "sigmoid":
        scores = [1 / (1 + math.exp(-x)) for x in z]
    else:
        scores = [math.exp(x) / sum(map(math.exp, z)) for x in z]
    choice = [score + b for score, b in zip(scores, bias, strict=True)]
    size = n // config.groups
    merit = [sum(sorted(choice[g * size : (g + 1) * size])[-2:]) for g in range(config.groups)]
    reached = sorted(range(config.groups), key=lambda g: -merit[g])[: config.top_groups]
    allowed = [e for e in range(n) if e // size in reached]
    best = sorted(allowed, key=lambda e: -choice[e])[: config.top_k]
    weights = [math.exp(z[e]) if config.softmax_after else scores[e] for e in best]
    if config.renormalise or config.softmax_after:
        weights = [weight / sum(weights) for weight in weights]
    return best, [config.scale * weight for weight in weights]


@settings(max_examples=examples(150))
@given(config=configs(), seed=st.integers(0, 999))
def test_every_option_equals_the_rule_by_hand(config: MoeConfig, seed: int) -> None:
    z = logits(seed, 5, config.experts) - 3.0
    bias = 0.2 * logits(seed + 1, 1, config.experts)[0]
    bias = bias if config.balance_bias else torch.zeros_like(bias)
    routing = choose(z, config, bias if config.balance_bias else None)
    for token, row in enumerate(z.tolist()):
        best, weights = by_hand(row, config, bias.tolist())
        assert routing.experts[token].tolist() == best
        assert routing.weights[token].tolist() == pytest.approx(weights, rel=1e-5)
    assert torch.equal(routing.logits, z)
    ones = torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(routing.probabilities.sum(dim=1), ones)


@FAST
@given(config=configs(), seed=st.integers(0, 999))
def test_every_option_has_its_gradient(config: MoeConfig, seed: int) -> None:
    z = logits(seed, 3, config.experts).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: differentiable(choose(z, config)), (z,))


def test_balance_is_judged_by_the_softmax_over_all_wherever_weights_come_from() -> None:
    z = logits(7, 4, 6)
    for after in (False, True):
        routing = choose(z, MoeConfig(6, 2, 8, softmax_after=after, renormalise=False))
        torch.testing.assert_close(routing.probabilities, z.softmax(dim=1))
        assert (routing.weights.sum(dim=1) < 0.999).all() != after


def test_sigmoid_probabilities_are_scores_over_their_sum() -> None:
    z = logits(8, 4, 6)
    routing = choose(z, MoeConfig(6, 2, 8, score="sigmoid"))
    scores = z.sigmoid()
    torch.testing.assert_close(routing.probabilities, scores / scores.sum(dim=1, keepdim=True))


def test_sigmoids_that_all_vanish_stay_finite() -> None:
    z = torch.full((2, 4), -200.0, requires_grad=True)
    routing = choose(z, MoeConfig(4, 2, 8, score="sigmoid"))
    sum(part.sum() for part in differentiable(routing)).backward()
    assert all(part.isfinite().all() for part in routing)
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_the_bias_moves_the_choice_and_neither_weight_nor_gradient() -> None:
    config = MoeConfig(4, 2, 8, score="sigmoid", renormalise=False, balance_bias=True)
    z = torch.tensor([[2.0, 1.0, 0.0, -1.0]], requires_grad=True)
    routing = choose(z, config, torch.tensor([0.0, 0.0, 0.0, 5.0]))
    assert routing.experts.tolist() == [[3, 0]]
    assert routing.weights.tolist() == [pytest.approx([1 / (1 + math.e), 1 / (1 + math.exp(-2))])]
    router = Router(8, config, 0)
    assert router.balance_bias is not None
    assert not router.balance_bias.requires_grad
    names = dict(router.named_parameters())
    assert sorted(names) == ["balance_bias", "weight"]


THEIRS: dict[str, tuple[Any, Any]] = {
    "deepseek_v3": (DeepseekV3Config, DeepseekV3TopkRouter),
    "glm4_moe": (Glm4MoeConfig, Glm4MoeTopkRouter),
}


@pytest.mark.parametrize("name", sorted(THEIRS))
@pytest.mark.parametrize(("groups", "top_groups"), [(1, 1), (4, 2), (2, 1)])
@pytest.mark.parametrize("renormalise", [True, False])
def test_sigmoids_biases_and_groups_are_those_of_transformers(
    name: str, groups: int, top_groups: int, renormalise: bool
) -> None:
    options, kind = THEIRS[name]
    theirs = kind(
        options(
            hidden_size=12,
            moe_intermediate_size=4,
            n_routed_experts=8,
            n_shared_experts=1,
            num_experts_per_tok=3,
            n_group=groups,
            topk_group=top_groups,
            norm_topk_prob=renormalise,
            routed_scaling_factor=2.5,
        )
    )
    torch.manual_seed(0)
    ours = Router(
        12,
        MoeConfig(
            8,
            3,
            4,
            renormalise=renormalise,
            score="sigmoid",
            scale=2.5,
            balance_bias=True,
            groups=groups,
            top_groups=top_groups,
        ),
        0,
    )
    assert ours.balance_bias is not None
    with torch.no_grad():
        torch.nn.init.normal_(ours.weight)
        torch.nn.init.normal_(ours.balance_bias, std=0.3)
        theirs.weight.copy_(ours.weight)
        theirs.e_score_correction_bias.copy_(ours.balance_bias)
    x = torch.randn(40, 12)
    _, weights, experts = theirs(x)
    routing = ours(x)
    order = experts.sort(dim=1)
    mine = routing.experts.sort(dim=1)
    assert torch.equal(mine.values, order.values)
    torch.testing.assert_close(
        routing.weights.gather(1, mine.indices), weights.gather(1, order.indices)
    )


def test_a_hash_is_what_it_says() -> None:
    tokens = torch.tensor([0, 1, 2, 31999, 128255, 7])
    for layer in (0, 5):
        routing = hashed(tokens, layer, 6)
        expected = [
            (((token * 2654435761 + (layer + 1) * 2246822519) % 2**32) >> 16) % 6
            for token in tokens.tolist()
        ]
        assert routing.experts.flatten().tolist() == expected
        assert routing.weights.flatten().tolist() == [1.0] * 6
        assert torch.equal(routing.probabilities, torch.eye(6)[expected])


def test_a_hash_is_even_over_tokens_and_differs_by_layer() -> None:
    tokens = torch.arange(50000)
    first, second = (hashed(tokens, layer, 8).experts.flatten() for layer in (0, 1))
    for chosen in (first, second):
        shares = torch.bincount(chosen, minlength=8) / len(tokens)
        assert shares.sub(1 / 8).abs().max() < 0.01
    together = torch.bincount(first * 8 + second, minlength=64) / len(tokens)
    assert (first == second).float().mean() < 0.5
    assert together.count_nonzero() > 8


def test_a_hash_without_tokens_is_refused() -> None:
    router = Router(8, MoeConfig(4, 1, 8, hashed=True), 2)
    assert not list(router.parameters())
    with pytest.raises(RuntimeError, match="layer 2 hashes token numbers to experts but got"):
        router(torch.randn(3, 8))
    assert router(torch.randn(3, 8), torch.tensor([1, 2, 3])).experts.shape == (3, 1)
