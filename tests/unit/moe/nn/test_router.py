"""The gate against the paper's formula and the released code's rule."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.model import MoeConfig
from moe.nn.router import Router, choose, normalise_logits

FAST = settings(max_examples=40, deadline=None)
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
def test_logits_are_those_of_the_released_code(seed: int, experts: int, norm: float) -> None:
    z = logits(seed, 7, experts)
    expected = torch.stack([row / (torch.std(row) / norm) for row in z])
    torch.testing.assert_close(normalise_logits(z, norm), expected, **WITHOUT_EPSILON)


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


def test_the_gate_computes_in_float32_whatever_the_model_and_autocast() -> None:
    torch.manual_seed(0)
    router = Router(32, moe(8, 2, 1.0)).bfloat16()
    torch.nn.init.normal_(router.weight)
    x = torch.randn(50, 32).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing = router(x)
    assert routing.probabilities.dtype == routing.weights.dtype == torch.float32
    expected = choose(x.double() @ router.weight.double().T, moe(8, 2, 1.0))
    torch.testing.assert_close(routing.probabilities, expected.probabilities.float())


def test_the_gradient_of_the_normalised_gate_is_right() -> None:
    z = logits(2, 3, 5).requires_grad_()
    config = moe(5, 2, 2.0)
    assert torch.autograd.gradcheck(lambda z: choose(z, config)[::2], (z,))
