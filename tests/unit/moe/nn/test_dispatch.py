"""Dispatch against a plain loop over tokens and experts, capacity against brute force."""

import math
from fractions import Fraction
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.nn import dispatch
from moe.nn.dispatch import DROPLESS, Capacity
from moe.nn.router import Routing

FAST = settings(max_examples=50, deadline=None)
HIDDEN = 5
Policy = Literal["probability", "position"]


@st.composite
def routings(draw: st.DrawFn, least_tokens: int = 1) -> Routing:
    tokens = draw(st.integers(least_tokens, 12))
    experts = draw(st.integers(1, 6))
    top_k = draw(st.integers(1, experts))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    z = 2.0 * torch.randn(tokens, experts, generator=generator, dtype=torch.float64)
    probabilities = z.softmax(dim=1)
    weights, chosen = probabilities.topk(top_k, dim=1)
    return Routing(probabilities, chosen, weights / weights.sum(dim=1, keepdim=True))


def masks(tokens: int) -> st.SearchStrategy[Tensor]:
    rows = st.lists(st.booleans(), min_size=tokens, max_size=tokens)
    return rows.map(lambda row: torch.tensor(row, dtype=torch.bool))


def inputs(tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(tokens)
    return torch.randn(tokens, HIDDEN, generator=generator, dtype=torch.float64)


def banks(experts: int) -> Tensor:
    generator = torch.Generator().manual_seed(experts)
    return torch.randn(experts, HIDDEN, HIDDEN, generator=generator, dtype=torch.float64)


def by_loop(x: Tensor, routing: Routing, kept: Tensor, experts: list[int], bank: Tensor) -> Tensor:
    rows = []
    for token in range(len(x)):
        row = torch.zeros(HIDDEN, dtype=torch.float64)
        for choice in range(routing.experts.shape[1]):
            expert = int(routing.experts[token, choice])
            if kept[token, choice] and expert in experts:
                row = row + routing.weights[token, choice] * torch.tanh(bank[expert] @ x[token])
        rows.append(row)
    return torch.stack(rows)


def by_dispatch(
    x: Tensor, routing: Routing, kept: Tensor, experts: list[int], bank: Tensor
) -> Tensor:
    return dispatch.combine(x, routing, kept, experts, lambda e, rows: torch.tanh(rows @ bank[e].T))


@FAST
@given(routing=routings(), data=st.data())
def test_combine_equals_a_loop_with_every_gradient(routing: Routing, data: st.DataObject) -> None:
    tokens, count = routing.probabilities.shape
    experts = data.draw(st.lists(st.integers(0, count - 1), unique=True))
    mask = data.draw(masks(tokens))
    kept = dispatch.keep(routing, DROPLESS, mask)
    results = []
    for combine in (by_loop, by_dispatch):
        x, bank = inputs(tokens).requires_grad_(), banks(count).requires_grad_()
        weights = routing.weights.clone().requires_grad_()
        y = combine(x, routing._replace(weights=weights), kept, experts, bank)
        wanted = (
            torch.autograd.grad(
                (y * inputs(tokens).cos()).sum(),
                (x, weights, bank),
                allow_unused=True,
                materialize_grads=True,
            )
            if y.requires_grad
            else [torch.zeros_like(t) for t in (x, weights, bank)]
        )
        results.append((y, *wanted))
    torch.testing.assert_close(results[1], results[0])


@FAST
@given(routing=routings(), ranks=st.integers(1, 4), data=st.data())
def test_the_ranks_of_a_gang_add_up_to_the_whole(
    routing: Routing, ranks: int, data: st.DataObject
) -> None:
    tokens, count = routing.probabilities.shape
    holders = [data.draw(st.integers(0, ranks - 1)) for _ in range(count)]
    groups = [[e for e in range(count) if holders[e] == rank] for rank in range(ranks)]
    x, bank = inputs(tokens), banks(count)
    kept = dispatch.keep(routing, DROPLESS)
    parts = [by_dispatch(x, routing, kept, group, bank) for group in groups]
    whole = by_loop(x, routing, kept, list(range(count)), bank)
    torch.testing.assert_close(torch.stack(parts).sum(0), whole)


@pytest.mark.parametrize("experts", [[], [2]])
def test_a_rank_no_token_reaches_stays_in_the_graph(experts: list[int]) -> None:
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1]])
    weights = torch.tensor([[0.6, 0.3], [0.5, 0.4]], requires_grad=True)
    routing = Routing(probabilities, torch.tensor([[0, 1], [0, 1]]), weights)
    x = torch.randn(2, HIDDEN, requires_grad=True)
    y = dispatch.combine(
        x, routing, dispatch.keep(routing, DROPLESS), experts, lambda e, rows: rows
    )
    assert not y.any()
    y.sum().backward()
    assert x.grad is not None
    assert weights.grad is not None
    assert not x.grad.any()
    assert not weights.grad.any()


def test_experts_without_tokens_are_not_run() -> None:
    routing = Routing(torch.eye(4)[:1], torch.tensor([[3]]), torch.ones(1, 1))
    ran = []

    def run(expert: int, rows: Tensor) -> Tensor:
        ran.append((expert, len(rows)))
        return rows

    kept = dispatch.keep(routing, DROPLESS)
    dispatch.combine(torch.ones(1, HIDDEN), routing, kept, [0, 3, 2], run)
    assert ran == [(3, 1)]


def test_half_precision_tokens_come_back_in_half_precision() -> None:
    routing = Routing(torch.full((3, 2), 0.5), torch.tensor([[0, 1]] * 3), torch.full((3, 2), 0.5))
    x = torch.randn(3, HIDDEN).bfloat16()
    kept = dispatch.keep(routing, DROPLESS)
    for experts in ([0, 1], [0], []):
        assert dispatch.combine(x, routing, kept, experts, lambda e, r: r).dtype == torch.bfloat16
    assert torch.equal(dispatch.combine(x, routing, kept, [0, 1], lambda e, r: r), x)


def survivors(
    routing: Routing, factor: float, policy: Policy, valid: list[bool]
) -> list[list[bool]]:
    """Fill every expert's slots one assignment after the other."""
    tokens, experts = routing.probabilities.shape
    top_k = routing.experts.shape[1]
    limit = math.ceil(Fraction(str(factor)) * sum(valid) * top_k / experts)
    kept = [[False] * top_k for _ in range(tokens)]
    for expert in range(experts):
        queue = [
            (token, choice)
            for token in range(tokens)
            for choice in range(top_k)
            if valid[token] and int(routing.experts[token, choice]) == expert
        ]
        if policy == "probability":
            queue.sort(key=lambda pair: -float(routing.probabilities[pair[0], expert]))
        for token, choice in queue[:limit]:
            kept[token][choice] = True
    return kept


@FAST
@given(
    routing=routings(),
    factor=st.sampled_from([0.25, 0.5, 1.0, 1.1, 1.25, 2.0]),
    policy=st.sampled_from(["probability", "position"]),
    data=st.data(),
)
def test_capacity_equals_brute_force(
    routing: Routing, factor: float, policy: Policy, data: st.DataObject
) -> None:
    mask = data.draw(masks(len(routing.experts)))
    kept = dispatch.keep(routing, Capacity(factor, policy), mask)
    assert kept.tolist() == survivors(routing, factor, policy, mask.tolist())


@FAST
@given(routing=routings(), factor=st.sampled_from([0.25, 0.5, 1.0, 1.3, 2.0]), data=st.data())
def test_the_drop_rate_is_what_a_capacity_drops(
    routing: Routing, factor: float, data: st.DataObject
) -> None:
    tokens, experts = routing.probabilities.shape
    mask = data.draw(masks(tokens))
    load = dispatch.counts(routing.experts, experts, mask)
    assignments = int(mask.sum()) * routing.experts.shape[1]
    assert int(load.sum()) == assignments
    kept = dispatch.keep(routing, Capacity(factor), mask)
    dropped = assignments - int(kept.sum())
    expected = dropped / assignments if assignments else 0.0
    assert dispatch.drop_rate(load, factor).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("load", "factor", "expected"),
    [
        ([4, 4, 4, 4], 1.0, 0.0),
        ([16, 0, 0, 0], 1.0, 12 / 16),
        ([16, 0, 0, 0], 4.0, 0.0),
        ([9, 5, 2, 0], 1.25, 4 / 16),
        ([5, 5, 3, 0], 1.0, 2 / 13),
        ([0, 0, 0, 0], 1.0, 0.0),
    ],
)
def test_the_drop_rate_of_known_loads(load: list[int], factor: float, expected: float) -> None:
    rate = dispatch.drop_rate(torch.tensor(load), factor)
    assert rate.dtype == torch.float32
    assert rate.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("factor", "assignments", "experts", "expected"),
    [(1.0, 16, 4, 4), (1.0, 13, 4, 4), (1.25, 16, 4, 5), (1.1, 200, 4, 55), (0.1, 1, 8, 1)],
)
def test_slots_are_rounded_up_and_nothing_more(
    factor: float, assignments: int, experts: int, expected: int
) -> None:
    assert dispatch.slots(factor, assignments, experts) == expected


@FAST
@given(routing=routings(), factor=st.sampled_from([0.5, 1.0]), data=st.data())
def test_padding_counts_nowhere(routing: Routing, factor: float, data: st.DataObject) -> None:
    tokens, experts = routing.probabilities.shape
    mask = data.draw(masks(tokens))
    real = Routing(*(part[mask] for part in routing))
    for capacity in (DROPLESS, Capacity(factor), Capacity(factor, "position")):
        kept = dispatch.keep(routing, capacity, mask)
        assert torch.equal(kept[mask], dispatch.keep(real, capacity))
        assert not kept[~mask].any()
    load = dispatch.counts(routing.experts, experts, mask)
    assert torch.equal(load, dispatch.counts(real.experts, experts))


@FAST
@given(routing=routings(), data=st.data())
def test_survivors_of_a_token_share_its_whole_weight(routing: Routing, data: st.DataObject) -> None:
    top_k = routing.experts.shape[1]
    kept = torch.stack([data.draw(masks(top_k)) for _ in range(len(routing.experts))])
    weights = dispatch.reweigh(routing, kept).weights
    for before, after, alive in zip(routing.weights, weights, kept, strict=True):
        total = sum(w for w, a in zip(before.tolist(), alive.tolist(), strict=True) if a)
        expected = [
            w / total if a else 0.0 for w, a in zip(before.tolist(), alive.tolist(), strict=True)
        ]
        assert after.tolist() == pytest.approx(expected)


def test_a_token_that_lost_every_expert_has_a_finite_gradient() -> None:
    weights = torch.tensor([[0.7, 0.3], [0.6, 0.4]], requires_grad=True)
    routing = Routing(torch.full((2, 2), 0.5), torch.tensor([[0, 1], [0, 1]]), weights)
    kept = torch.tensor([[False, False], [True, False]])
    reweighed = dispatch.reweigh(routing, kept).weights
    assert reweighed.tolist() == [[0.0, 0.0], [1.0, 0.0]]
    reweighed.square().sum().backward()
    assert weights.grad is not None
    assert weights.grad.isfinite().all()


def test_top_one_drops_the_least_probable_though_its_weight_is_one() -> None:
    probabilities = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.7, 0.3], [0.8, 0.2]])
    routing = Routing(probabilities, torch.zeros(4, 1, dtype=torch.long), torch.ones(4, 1))
    kept = dispatch.keep(routing, Capacity(1.0, "probability"))
    assert kept.flatten().tolist() == [False, True, False, True]
