"""The head with its loss, some rows at a time, against logits and torch's cross entropy."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.nn import loss
from moe.nn.loss import IGNORED, cross_entropy_sum, head_loss
from moe.nn.vocabulary import Rows
from tests.examples import examples
from tests.fakes import ThreadExchange, ThreadGang


def material(tokens: int, seed: int, ignored: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(1, tokens, 6, generator=generator)
    head = torch.randn(11, 6, generator=generator)
    labels = torch.randint(11, (1, tokens), generator=generator)
    labels[torch.rand(1, tokens, generator=generator) < ignored] = IGNORED
    return hidden.requires_grad_(), head.requires_grad_(), labels


@pytest.mark.parametrize("rows", [1, 3, 100])
@given(tokens=st.integers(1, 12), seed=st.integers(0, 99), scale=st.floats(0.01, 3.0))
@settings(max_examples=examples(20))
def test_the_loss_and_every_gradient_are_those_of_the_logits(
    rows: int, tokens: int, seed: int, scale: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "LOGITS_AT_ONCE", rows * 11)
        hidden, head, labels = material(tokens, seed)
        found = head_loss(hidden, head, labels, scale)
        found.backward()
    gradients = hidden.grad, head.grad
    hidden, head, labels = material(tokens, seed)
    expected = cross_entropy_sum(hidden @ head.t(), labels) * scale
    expected.backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients, (hidden.grad, head.grad), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 4, 100])
@given(
    edges=st.lists(st.integers(1, 10), min_size=1, max_size=3, unique=True).map(sorted),
    tokens=st.integers(0, 9),
    seed=st.integers(0, 99),
    precision=st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(max_examples=examples(20))
def test_a_gang_that_splits_the_vocabulary_gets_the_loss_of_the_whole(
    rows: int, edges: list[int], tokens: int, seed: int, precision: torch.dtype
) -> None:
    def work(rank: int, exchange: ThreadExchange) -> list[Tensor]:
        start, stop = [0, *edges, 11][rank : rank + 2]
        hidden, head, labels = material(tokens, seed)
        own = head.detach()[start:stop].requires_grad_()
        rows = Rows(start, stop, 11, exchange)
        found = head_loss(hidden.to(precision), own, labels, 0.7, rows)
        found.backward()
        assert hidden.grad is not None
        assert own.grad is not None
        return [found.detach(), hidden.grad, own.grad]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "LOGITS_AT_ONCE", rows * 11)
        outcomes = ThreadGang(len(edges) + 1).run(work)
    hidden, head, labels = material(tokens, seed)
    expected = cross_entropy_sum(hidden @ head.t(), labels) * 0.7
    expected.backward()
    assert hidden.grad is not None
    near = {"rtol": 1e-4, "atol": 1e-5}
    if precision == torch.bfloat16:
        near = {"rtol": 0.05, "atol": 0.2}
    for found, hidden_grad, _ in outcomes:
        assert torch.equal(found, outcomes[0][0])
        assert torch.equal(hidden_grad, outcomes[0][1])
    torch.testing.assert_close(outcomes[0][0], expected.detach(), **near)
    torch.testing.assert_close(outcomes[0][1], hidden.grad, **near)
    torch.testing.assert_close(torch.cat([own for *_, own in outcomes]), head.grad, **near)


def test_a_label_of_no_vocabulary_is_refused() -> None:
    hidden, head, labels = material(4, 0)
    labels[0, 2] = 11

    def work(rank: int, exchange: ThreadExchange) -> Tensor:
        span = [(0, 5), (5, 11)][rank]
        return head_loss(hidden, head[slice(*span)], labels, 1.0, Rows(*span, 11, exchange))

    with pytest.raises(RuntimeError, match="out of bounds"):
        ThreadGang(2).run(work)


def test_no_label_no_loss() -> None:
    hidden, head, _ = material(4, 0)
    found = head_loss(hidden, head, torch.full((1, 4), IGNORED), 0.5)
    found.backward()
    assert found.item() == 0.0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_a_head_that_is_not_trained() -> None:
    hidden, head, labels = material(5, 1)
    head_loss(hidden, head.detach(), labels, 1.0).backward()
    assert hidden.grad is not None
    with torch.no_grad():
        assert not head_loss(hidden, head, labels, 1.0).requires_grad


def test_gradients_of_bfloat16_rows_add_up_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 tokens alike, one at a time: a sum in bfloat16 would stand still at 256 times the first.

    The head says so by the type of its gradient.
    """
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 11)
    hidden, head, _ = material(1, 2)
    hidden = hidden.detach().bfloat16().expand(1, 512, -1)
    labels = torch.zeros(1, 512, dtype=torch.int32)
    found = []
    for tokens in (1, 512):
        rows = head.detach().bfloat16().requires_grad_()
        rows.grad_dtype = torch.float32
        value = head_loss(hidden[:, :tokens], rows, labels[:, :tokens], 1.0)
        assert value.dtype == torch.float32
        value.backward()
        assert rows.grad is not None
        assert rows.grad.dtype == torch.float32
        found.append(rows.grad)
    torch.testing.assert_close(found[1], 512 * found[0], rtol=1e-5, atol=1e-5)


def test_no_tokens_no_loss() -> None:
    hidden, head, _ = material(1, 0)
    found = head_loss(hidden[:, :0], head, torch.zeros(1, 0), 1.0)
    found.backward()
    assert found.item() == 0.0
    assert head.grad is not None
    assert not head.grad.any()


def test_a_row_that_does_not_count_may_hold_anything() -> None:
    hidden, head, labels = material(4, 3, ignored=0.0)
    labels[0, 1] = IGNORED
    with torch.no_grad():
        hidden[0, 1] = torch.nan
    found = head_loss(hidden, head, labels, 1.0)
    assert torch.isfinite(found)


def test_a_factor_belongs_into_the_scale() -> None:
    hidden, head, labels = material(4, 3)
    with pytest.raises(RuntimeError, match="multiply the scale of head_loss"):
        (2.0 * head_loss(hidden, head, labels, 1.0)).backward()
    assert head.grad is None


def test_a_second_backward_pass_is_refused() -> None:
    hidden, head, labels = material(4, 3)
    found = head_loss(hidden, head, labels, 1.0)
    found.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        found.backward()
