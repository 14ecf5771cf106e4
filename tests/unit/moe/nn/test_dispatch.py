"""Capacity and experts that choose against brute force: one assignment after the other."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.config.model import MoeConfig
from moe.nn import dispatch
from moe.nn.dispatch import DROPLESS, Capacity, Chooser
from moe.nn.router import Routing, choose
from tests.examples import examples

FAST = settings(max_examples=examples(50))
CAPACITIES = (
    DROPLESS,
    Capacity(1.0),
    Capacity(1.0, "position"),
    Capacity(1.0, chooser="experts"),
)
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
    return routed(probabilities, chosen, weights / weights.sum(dim=1, keepdim=True))


def routed(probabilities: Tensor, chosen: Tensor, weights: Tensor) -> Routing:
    return Routing(probabilities.log(), probabilities, probabilities, chosen, weights)


def masks(tokens: int) -> st.SearchStrategy[Tensor]:
    rows = st.lists(st.booleans(), min_size=tokens, max_size=tokens)
    return rows.map(lambda row: torch.tensor(row, dtype=torch.bool))


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
    load = torch.bincount(routing.experts[mask].flatten(), minlength=experts)
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
@given(
    factor=st.floats(0.001, 300.0).map(lambda factor: round(factor, 6)),
    assignments=st.integers(0, 2**27),
    experts=st.integers(1, 512),
)
def test_slots_on_a_device_are_those_of_fractions(
    factor: float, assignments: int, experts: int
) -> None:
    exact = math.ceil(Fraction(str(factor)) * assignments / experts)
    counted = dispatch.slots(factor, torch.tensor(assignments), experts)
    assert int(counted) == dispatch.slots(factor, assignments, experts)
    assert min(int(counted), assignments) == min(exact, assignments)


@FAST
@given(
    routing=routings(),
    chooser=st.sampled_from(["tokens", "experts"]),
    factor=st.sampled_from([None, 0.5, 1.0, 1.3]),
    data=st.data(),
)
def test_an_order_has_room_for_all_that_survive(
    routing: Routing, chooser: Chooser, factor: float | None, data: st.DataObject
) -> None:
    tokens, experts = routing.scores.shape
    capacity, valid = Capacity(factor, chooser=chooser), data.draw(masks(tokens))
    config = MoeConfig(experts, routing.experts.shape[1], 8)
    found, kept = dispatch.assign(routing, capacity, config, valid)
    room = dispatch.room(capacity, tokens, config)
    row_of = torch.arange(experts + 1)
    whole = dispatch.order(found.experts, kept, row_of, experts)
    own = dispatch.order(found.experts, kept, row_of, experts, room)
    assert torch.equal(own.ends, whole.ends)
    survivors = int(kept.sum())
    assert torch.equal(own.places[:survivors], whole.places[:survivors])
    assert room is None or len(own.places) <= experts * min(tokens, room)
    assert own.whole == (len(own.places) == found.experts.numel())


@FAST
@given(routing=routings(), data=st.data())
def test_pairs_in_the_order_of_the_rows_that_compute_them(
    routing: Routing, data: st.DataObject
) -> None:
    """Tokens in order within a row; what is dropped or foreign comes last."""
    top_k, count = routing.experts.shape[1], routing.scores.shape[1]
    held = data.draw(st.lists(st.integers(0, count - 1), unique=True, min_size=1))
    kept = torch.stack([data.draw(masks(top_k)) for _ in range(len(routing.experts))])
    row_of = torch.full((max(held) + 2,), len(held))
    row_of[held] = torch.arange(len(held))
    order = dispatch.order(routing.experts, kept, row_of, len(held))
    pairs = list(zip(routing.experts.flatten().tolist(), kept.flatten().tolist(), strict=True))
    rows = [
        [place for place, (expert, alive) in enumerate(pairs) if alive and expert == own]
        for own in held
    ]
    mine = [place for row in rows for place in row]
    ends = [sum(map(len, rows[: row + 1])) for row in range(len(rows))]
    assert order.ends.tolist() == ends
    assert order.ends.dtype == torch.int32
    assert order.places[: len(mine)].tolist() == mine
    assert sorted(order.places.tolist()) == list(range(len(pairs)))
    assert order.tokens.tolist() == [place // top_k for place in order.places.tolist()]
    assert order.places[order.back].tolist() == list(range(len(pairs)))
    assert order.alive.tolist() == [at < len(mine) for at in range(len(pairs))]


@FAST
@given(routing=routings(), factor=st.sampled_from([0.5, 1.0]), data=st.data())
def test_padding_counts_nowhere(routing: Routing, factor: float, data: st.DataObject) -> None:
    tokens, experts = routing.probabilities.shape
    mask = data.draw(masks(tokens))
    real = Routing(*(part[mask] for part in routing))
    config = MoeConfig(experts, routing.experts.shape[1], 8)
    for capacity in CAPACITIES:
        capacity = replace(capacity, factor=capacity.factor and factor)
        found, kept = dispatch.assign(routing, capacity, config, mask)
        expected, survivors = dispatch.assign(real, capacity, config)
        assert torch.equal(kept[mask], survivors)
        assert torch.equal(found.weights[mask] * kept[mask], expected.weights * survivors)
        assert not kept[~mask].any()


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
    routing = routed(torch.full((2, 2), 0.5), torch.tensor([[0, 1], [0, 1]]), weights)
    kept = torch.tensor([[False, False], [True, False]])
    reweighed = dispatch.reweigh(routing, kept).weights
    assert reweighed.tolist() == [[0.0, 0.0], [1.0, 0.0]]
    reweighed.square().sum().backward()
    assert weights.grad is not None
    assert weights.grad.isfinite().all()


def test_top_one_drops_the_least_probable_though_its_weight_is_one() -> None:
    probabilities = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.7, 0.3], [0.8, 0.2]])
    routing = routed(probabilities, torch.zeros(4, 1, dtype=torch.long), torch.ones(4, 1))
    kept = dispatch.keep(routing, Capacity(1.0, "probability"))
    assert kept.flatten().tolist() == [False, True, False, True]


@FAST
@given(
    routing=routings(),
    factor=st.sampled_from([None, 0.5, 1.0, 1.3]),
    renormalise=st.booleans(),
    scale=st.sampled_from([1.0, 2.5]),
    data=st.data(),
)
def test_experts_take_their_most_probable_tokens(
    routing: Routing, factor: float | None, renormalise: bool, scale: float, data: st.DataObject
) -> None:
    """The k of tokens' choice only says how many tokens an expert takes."""
    tokens, experts = routing.scores.shape
    top_k = routing.experts.shape[1]
    valid = data.draw(masks(tokens))
    config = MoeConfig(experts, top_k, 8, renormalise=renormalise, scale=scale)
    found, kept = dispatch.assign(routing, Capacity(factor, chooser="experts"), config, valid)
    slots = math.ceil(Fraction(str(factor or 1.0)) * int(valid.sum()) * top_k / experts)
    taken = [[False] * experts for _ in range(tokens)]
    for expert in range(experts):
        queue = sorted(
            (token for token in range(tokens) if valid[token]),
            key=lambda token: -float(routing.scores[token, expert]),
        )
        for token in queue[:slots]:
            taken[token][expert] = True
    assert kept.tolist() == taken
    assert found.experts.tolist() == [list(range(experts))] * tokens
    for scores, weights, row in zip(routing.scores.tolist(), found.weights, taken, strict=True):
        own = [score if got else 0.0 for score, got in zip(scores, row, strict=True)]
        whole = (sum(own) or 1.0) if renormalise else 1.0
        assert weights.tolist() == pytest.approx([scale * score / whole for score in own])
    untaken = sum(bool(v) and not any(row) for v, row in zip(valid, taken, strict=True))
    share = dispatch.untaken(kept, valid).item()
    assert share == pytest.approx(untaken / max(int(valid.sum()), 1))


def test_what_experts_took_is_the_softmax_over_it_where_that_comes_after() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0, 0.0, 1.5]])
    config = MoeConfig(3, 2, 8, renormalise=False, softmax_after=True)
    routing, kept = dispatch.assign(choose(logits, config), Capacity(chooser="experts"), config)
    masked = logits.masked_fill(~kept, -torch.inf)
    torch.testing.assert_close(routing.weights, masked.softmax(dim=1))


@FAST
@given(routing=routings(), factor=st.sampled_from([0.25, 0.5, 1.0]))
def test_survivors_share_the_scale_where_weights_are_renormalised(
    routing: Routing, factor: float
) -> None:
    experts, top_k = routing.scores.shape[1], routing.experts.shape[1]
    config = MoeConfig(experts, top_k, 8, scale=2.5)
    scaled = routing._replace(weights=2.5 * routing.weights)
    found, kept = dispatch.assign(scaled, Capacity(factor), config)
    totals = (found.weights * kept).sum(dim=1)
    torch.testing.assert_close(totals, 2.5 * kept.any(dim=1).double())
    raw, kept = dispatch.assign(scaled, Capacity(factor), replace(config, renormalise=False))
    assert torch.equal(raw.weights, scaled.weights * kept)
    left, _ = dispatch.assign(scaled, Capacity(factor, reweigh=False), config)
    assert torch.equal(left.weights, scaled.weights * kept)
    after = replace(config, renormalise=False, softmax_after=True)
    assert torch.equal(dispatch.assign(scaled, Capacity(factor), after)[0].weights, found.weights)
