"""Both banks of experts against one plain loop over tokens and experts, with every gradient."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.config.model import MoeConfig
from moe.nn import dispatch
from moe.nn.build import build
from moe.nn.decoder import Pass
from moe.nn.dispatch import Capacity
from moe.nn.experts.experts import BankName, Experts
from moe.nn.later import Later
from moe.nn.router import choose
from tests import tiny
from tests.examples import examples
from tests.routed import routed, settings_of

FAST = settings(max_examples=examples(60))
BANKS: tuple[BankName, ...] = ("loop", "grouped")
BOTH = pytest.mark.parametrize("name", BANKS)
HIDDEN, SIZE = 8, 16
CLOSE = {torch.float32: (1e-5, 2e-6), torch.bfloat16: (0.05, 0.05), torch.float64: (1e-5, 1e-6)}


def bank(
    name: BankName,
    numbers: list[int],
    dtype: torch.dtype = torch.float32,
    size: tuple[int, int] = (HIDDEN, SIZE),
) -> Experts:
    """Return experts held to one bank; their weights depend on their names alone."""
    experts = Experts(*size, numbers)
    with torch.no_grad():
        for key, parameter in experts.named_parameters():
            seed = sum(map(ord, key))
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(seed)) * 0.5)
    experts.to(dtype).gather()
    experts.bank = name
    return experts


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@contextmanager
def bare_memory() -> Iterator[None]:
    """Let memory that nobody filled hold NaN, as it may on a GPU."""
    torch.set_deterministic_debug_mode("error")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode("default")


def by_loop(experts: Experts, x: Tensor, chosen: Tensor, weights: Tensor, kept: Tensor) -> Tensor:
    rows = []
    for token in range(len(x)):
        row = torch.zeros(x.shape[1], dtype=x.dtype)
        for choice, expert in enumerate(chosen[token].tolist()):
            if kept[token, choice] and str(expert) in experts:
                gate, up, down = (each.value for each in experts[str(expert)].weights)
                inner = F.silu(gate @ x[token]) * (up @ x[token])
                row = row + weights[token, choice] * (down @ inner)
        rows.append(row)
    return torch.stack(rows)


def filled(like: Tensor, value: Tensor | None) -> Tensor:
    """Return the value, zeros where no gradient came."""
    return torch.zeros_like(like) if value is None else value.detach()


class Case(NamedTuple):
    """Tokens, their experts and weights, and which experts a rank holds."""

    held: list[int]
    x: Tensor
    y_grad: Tensor
    chosen: Tensor
    weights: Tensor
    kept: Tensor
    size: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    tokens, count = draw(st.integers(1, 9)), draw(st.integers(1, 8))
    hidden, size = draw(st.sampled_from([8, 16, 24])), draw(st.sampled_from([8, 16, 24]))
    seed = draw(st.integers(0, 999))
    top_k = draw(st.integers(1, count))
    held = draw(st.lists(st.integers(0, count - 1), unique=True, min_size=1))
    weights, chosen = torch.rand(tokens, count, generator=seeded(seed)).topk(top_k)
    kept = torch.rand(tokens, top_k, generator=seeded(seed + 1)) < 0.8
    x, y_grad = torch.randn(2, tokens, hidden, generator=seeded(seed + 2)).bfloat16()
    return Case(held, x, y_grad, chosen, weights, kept, size)


def run(name: BankName | None, case: Case, dtype: torch.dtype, waits: bool) -> list[Tensor]:
    """Return the output and every gradient of two passes; without a name those of the oracle."""
    experts = bank(name or "loop", case.held, dtype, (case.x.shape[1], case.size))
    x, w = (each.to(dtype, copy=True).requires_grad_() for each in (case.x, case.weights))
    later = Later() if waits else None
    with bare_memory():
        for _ in range(2):
            if name is None:
                y = by_loop(experts, x, case.chosen, w, case.kept)
            else:
                y = experts(x, case.chosen, w, case.kept, later)
            if y.requires_grad:
                y.backward(case.y_grad.to(dtype))
        if later is not None:
            later.run()
    return [y.detach(), *(filled(leaf, leaf.grad) for leaf in (x, w, *experts.parameters()))]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("loop", torch.float64),
        ("loop", torch.float32),
        ("loop", torch.bfloat16),
        ("grouped", torch.float32),
        ("grouped", torch.bfloat16),
    ],
)
@FAST
@given(case=cases(), waits=st.booleans())
def test_a_bank_equals_a_loop_with_every_gradient(
    name: BankName, dtype: torch.dtype, case: Case, waits: bool
) -> None:
    relative, absolute = CLOSE[dtype]
    found = zip(run(name, case, dtype, waits), run(None, case, torch.float64, False), strict=True)
    for own, exact in found:
        assert own.dtype == dtype
        assert (own.double() - exact).abs().max() <= relative * exact.abs().max() + absolute


@BOTH
@given(seed=st.integers(0, 99))
@settings(max_examples=examples(10))
def test_the_ranks_of_a_gang_add_up_to_the_whole(name: BankName, seed: int) -> None:
    x = torch.randn(7, HIDDEN, generator=seeded(seed))
    weights, chosen = torch.rand(7, 5, generator=seeded(seed + 1)).topk(3)
    kept = torch.ones(7, 3, dtype=torch.bool)
    parts = [bank(name, numbers)(x, chosen, weights, kept) for numbers in ([4, 0], [2], [3, 1])]
    whole = bank(name, list(range(5)))(x, chosen, weights, kept)
    torch.testing.assert_close(torch.stack(parts).sum(0), whole, rtol=1e-4, atol=1e-5)


@BOTH
@pytest.mark.parametrize("chosen", [[0, 4], [7, 1]])
def test_experts_3_of_8_that_few_tokens_reach(name: BankName, chosen: list[int]) -> None:
    """Foreign experts below, between and above the held ones; a held one that no token reaches."""
    experts, whole = bank(name, [1, 3, 6]), bank("loop", list(range(8)))
    x, weights = torch.randn(5, HIDDEN, generator=seeded(3)), torch.rand(5, 2)
    chosen_TK = torch.tensor([chosen, [6, 0], [1, 6], [7, 6], [0, 1]])
    kept = torch.tensor([[True, True], [True, False], [False, True], [True, True], [True, False]])
    mine = kept & torch.isin(chosen_TK, torch.tensor([1, 3, 6]))
    with bare_memory():
        found = experts(x, chosen_TK, weights, kept)
    torch.testing.assert_close(found, whole(x, chosen_TK, weights, mine))


@BOTH
@pytest.mark.parametrize("held", [[], [2]])
def test_a_rank_no_token_reaches_stays_in_the_graph(name: BankName, held: list[int]) -> None:
    weights = torch.tensor([[0.6, 0.3], [0.5, 0.4]], requires_grad=True)
    x = torch.randn(2, HIDDEN, requires_grad=True)
    chosen = torch.tensor([[0, 1], [0, 1]])
    with bare_memory():
        y = bank(name, held)(x, chosen, weights, torch.ones(2, 2, dtype=torch.bool))
        y.sum().backward()
    assert torch.equal(y, torch.zeros(2, HIDDEN))
    assert x.grad is not None
    assert weights.grad is not None
    assert torch.equal(x.grad, torch.zeros(2, HIDDEN))
    assert torch.equal(weights.grad, torch.zeros(2, 2))


def test_in_the_loop_experts_without_tokens_get_no_gradient() -> None:
    experts = bank("loop", [0, 1, 2, 3])
    y = experts(
        torch.ones(1, HIDDEN), torch.tensor([[3]]), torch.ones(1, 1), torch.tensor([[True]])
    )
    y.sum().backward()
    touched = {key.split(".")[0] for key, p in experts.named_parameters() if p.grad is not None}
    assert touched == {"3"}


@BOTH
def test_no_tokens_at_all(name: BankName) -> None:
    none = torch.zeros(0, 2)
    x = torch.zeros(0, HIDDEN, requires_grad=True)
    y = bank(name, [0, 1])(x, none.long(), none, none.bool())
    assert y.shape == (0, HIDDEN)
    y.sum().backward()


@BOTH
def test_rows_decide_the_type_of_products_and_add_up_in_float32(name: BankName) -> None:
    """One token goes to eight experts alike: its gradient is their sum, rounded once."""
    experts = bank(name, list(range(8)))
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


@BOTH
def test_half_precision_tokens_come_back_in_half_precision(name: BankName) -> None:
    experts = bank(name, [0, 1], torch.bfloat16)
    x = torch.randn(8, HIDDEN, generator=seeded(1)).bfloat16().requires_grad_()
    weights, chosen = torch.rand(8, 2, generator=seeded(2)).topk(2)
    y = experts(x, chosen, weights, torch.ones(8, 2, dtype=torch.bool))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


@BOTH
def test_frozen_experts_pass_gradients_on(name: BankName) -> None:
    x = torch.randn(6, HIDDEN, generator=seeded(1))
    weights, chosen = torch.rand(6, 3, generator=seeded(2)).topk(2)
    found = []
    for trained in (True, False):
        experts = bank(name, [0, 1, 2]).requires_grad_(trained)
        rows, w = x.clone().requires_grad_(), weights.clone().requires_grad_()
        experts(rows, chosen, w, torch.ones(6, 2, dtype=torch.bool)).square().sum().backward()
        assert all((p.grad is not None) == trained for p in experts.parameters())
        found.append((rows.grad, w.grad))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.3, 9.0])
@pytest.mark.parametrize("held", [[0, 1, 2, 3, 4, 5], [4, 1]])
def test_experts_that_choose_compute_the_same_in_both_banks(factor: float, held: list[int]) -> None:
    config = MoeConfig(6, 2, SIZE)
    logits = torch.randn(11, 6, generator=seeded(4))
    capacity, valid = Capacity(factor, chooser="experts"), torch.arange(11) < 9
    routing, kept = dispatch.assign(choose(logits, config), capacity, config, valid)
    found = []
    for name in BANKS:
        x = torch.randn(11, HIDDEN, generator=seeded(5)).requires_grad_()
        w = routing.weights.clone().requires_grad_()
        experts = bank(name, held)
        with bare_memory():
            y = experts(x, routing.experts, w, kept, room=dispatch.room(capacity, 11, config))
            y.square().sum().backward()
        found.append([y.detach(), x.grad, w.grad, *(p.grad for p in experts.parameters())])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("again", [frozenset[int](), frozenset({0, 2})])
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoder_learns_the_same_from_both_banks(
    again: frozenset[int], waits: bool, dtype: torch.dtype
) -> None:
    """Two micro-batches with a capacity and losses on routers; layers may run again."""
    config = routed(expert_size=24, shared_size=13)
    run = Pass(Capacity(1.25), settings_of("switch"), logits=False, recompute=again)
    found: list[dict[str, Any]] = []
    for name in BANKS:
        torch.manual_seed(0)
        decoder = build(config, lambda tensor: torch.randn(tensor.shape) / 5, dtype=dtype)
        for layer in config.moe_layers:
            decoder.mixture(layer).experts.gather()
            decoder.mixture(layer).experts.bank = name
        for seed in range(2):
            later = Later() if waits else None
            tokens = tiny.tokens(config.vocab_size, 2, 9, seed=seed)
            output = decoder(tokens, replace(run, later=later))
            loss = decoder.loss(output.values, tokens.roll(-1, 1), 0.1)
            loss.backward()
            if later is not None:
                later.run()
        named = decoder.named_parameters()
        found.append({key: filled(p, p.grad) for key, p in named if p.requires_grad})
        found[-1]["loss"] = loss.detach()
    near = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.02}
    torch.testing.assert_close(found[0], found[1], **near)


def test_the_table_of_rows_survives_a_move_without_values() -> None:
    """A decoder is built on the meta device; ``to_empty`` leaves its buffers bare."""
    with torch.device("meta"):
        experts = Experts(HIDDEN, SIZE, [1, 3])
    with bare_memory():
        experts = experts.to(torch.bfloat16).to_empty(device="cpu")
    assert experts.row_of_N.tolist() == [2, 0, 2, 1, 2]
    assert not experts.state_dict().keys() & {"row_of_N"}


def test_held_to_the_grouped_bank_but_elsewhere() -> None:
    experts = Experts(HIDDEN, SIZE, [0, 1])
    experts.bank = "grouped"
    one = torch.ones(1, 1)
    with pytest.raises(RuntimeError, match=r"not two stacks; call gather"):
        experts(torch.ones(1, HIDDEN), one.long(), one, one.bool())
