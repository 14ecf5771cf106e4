"""The bank of experts against a plain loop over tokens and experts, with every gradient."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.nn.experts import Experts
from tests.examples import examples

FAST = settings(max_examples=examples(60))
HIDDEN, SIZE = 6, 9


def bank(numbers: list[int], dtype: torch.dtype = torch.float64) -> Experts:
    experts = Experts(HIDDEN, SIZE, numbers)
    with torch.no_grad():
        for name, parameter in experts.named_parameters():
            seed = sum(map(ord, name))
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(seed)) * 0.5)
    return experts.to(dtype)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_loop(experts: Experts, x: Tensor, chosen: Tensor, weights: Tensor, kept: Tensor) -> Tensor:
    rows = []
    for token in range(len(x)):
        row = torch.zeros(HIDDEN, dtype=x.dtype)
        for choice, expert in enumerate(chosen[token].tolist()):
            if kept[token, choice] and str(expert) in experts:
                gate, up, down = (each.value for each in experts[str(expert)].weights)
                inner = F.silu(gate @ x[token]) * (up @ x[token])
                row = row + weights[token, choice] * (down @ inner)
        rows.append(row)
    return torch.stack(rows)


@FAST
@given(
    data=st.data(),
    tokens=st.integers(1, 9),
    count=st.integers(1, 6),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_bank_equals_a_loop_with_every_gradient(
    data: st.DataObject, tokens: int, count: int, seed: int, dtype: torch.dtype
) -> None:
    top_k = data.draw(st.integers(1, count))
    held = data.draw(st.lists(st.integers(0, count - 1), unique=True, min_size=1))
    scores = torch.rand(tokens, count, generator=seeded(seed))
    weights, chosen = scores.topk(top_k)
    kept = torch.rand(tokens, top_k, generator=seeded(seed + 1)) < 0.8
    found = []
    for run in (by_loop, lambda experts, *given: experts(*given)):
        experts = bank(held, dtype)
        x = torch.randn(tokens, HIDDEN, generator=seeded(seed + 2)).to(dtype).requires_grad_()
        w = weights.to(dtype).detach().requires_grad_()
        y = run(experts, x, chosen, w, kept)
        if y.requires_grad:
            y.backward(torch.randn(y.shape, generator=seeded(seed + 3)).to(dtype))
        found.append([filled(y), *(filled(t, t.grad) for t in (x, w, *experts.parameters()))])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def filled(like: Tensor, value: Tensor | None = None) -> Tensor:
    """Return the value, zeros where no gradient came."""
    if value is None and like.is_leaf:
        return torch.zeros_like(like)
    return (like if value is None else value).detach()


@given(seed=st.integers(0, 99))
@settings(max_examples=examples(10))
def test_the_ranks_of_a_gang_add_up_to_the_whole(seed: int) -> None:
    x = torch.randn(7, HIDDEN, generator=seeded(seed), dtype=torch.float64)
    weights, chosen = torch.rand(7, 5, generator=seeded(seed + 1)).double().topk(3)
    kept = torch.ones(7, 3, dtype=torch.bool)
    parts = [bank(numbers)(x, chosen, weights, kept) for numbers in ([4, 0], [2], [3, 1])]
    whole = bank(list(range(5)))(x, chosen, weights, kept)
    torch.testing.assert_close(torch.stack(parts).sum(0), whole)


@pytest.mark.parametrize("held", [[], [2]])
def test_a_rank_no_token_reaches_stays_in_the_graph(held: list[int]) -> None:
    weights = torch.tensor([[0.6, 0.3], [0.5, 0.4]], requires_grad=True)
    x = torch.randn(2, HIDDEN, requires_grad=True)
    chosen = torch.tensor([[0, 1], [0, 1]])
    y = bank(held, torch.float32)(x, chosen, weights, torch.ones(2, 2, dtype=torch.bool))
    assert not y.any()
    y.sum().backward()
    assert x.grad is not None
    assert weights.grad is not None
    assert not x.grad.any()
    assert not weights.grad.any()


def test_experts_without_tokens_get_no_gradient() -> None:
    experts = bank([0, 1, 2, 3], torch.float32)
    y = experts(
        torch.ones(1, HIDDEN), torch.tensor([[3]]), torch.ones(1, 1), torch.tensor([[True]])
    )
    y.sum().backward()
    touched = {name.split(".")[0] for name, p in experts.named_parameters() if p.grad is not None}
    assert touched == {"3"}


def test_no_tokens_at_all() -> None:
    none = torch.zeros(0, 2)
    y = bank([0, 1], torch.float32)(torch.zeros(0, HIDDEN), none.long(), none, none.bool())
    assert y.shape == (0, HIDDEN)


def test_rows_decide_the_type_of_products_and_add_up_in_float32() -> None:
    """One token goes to eight experts alike: its gradient is their sum, rounded once."""
    experts = bank(list(range(8)), torch.float32)
    for expert in range(1, 8):
        experts[str(expert)].load_state_dict(experts["0"].state_dict())
    x = torch.randn(1, HIDDEN, generator=seeded(1)).bfloat16().requires_grad_()
    one, all_of_them = torch.tensor([[0]]), torch.arange(8)[None]
    found = []
    for chosen in (one, all_of_them):
        x.grad = None
        kept = torch.ones_like(chosen, dtype=torch.bool)
        y = experts(x, chosen, torch.full(chosen.shape, 1.3), kept)
        assert y.dtype == torch.bfloat16
        y.backward(torch.ones_like(y))
        assert x.grad is not None
        found.append((y.detach(), x.grad))
    for single, eight in zip(*found, strict=True):
        torch.testing.assert_close(eight, 8 * single, rtol=2**-8, atol=0)
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in experts.parameters())


def test_half_precision_tokens_come_back_in_half_precision() -> None:
    experts = bank([0, 1], torch.bfloat16)
    x = torch.randn(8, HIDDEN, generator=seeded(1)).bfloat16().requires_grad_()
    weights, chosen = torch.rand(8, 2, generator=seeded(2)).topk(2)
    y = experts(x, chosen, weights, torch.ones(8, 2, dtype=torch.bool))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_frozen_experts_pass_gradients_on() -> None:
    x = torch.randn(6, HIDDEN, generator=seeded(1))
    weights, chosen = torch.rand(6, 3, generator=seeded(2)).topk(2)
    found = []
    for trained in (True, False):
        experts = bank([0, 1, 2], torch.float32).requires_grad_(trained)
        rows, w = x.clone().requires_grad_(), weights.clone().requires_grad_()
        experts(rows, chosen, w, torch.ones(6, 2, dtype=torch.bool)).square().sum().backward()
        assert all((p.grad is not None) == trained for p in experts.parameters())
        found.append((rows.grad, w.grad))
    torch.testing.assert_close(found[0], found[1])
