"""Documents that share a row: attention, and whole models, against each document alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.nn.attend import attend_documents
from moe.nn.build import build
from moe.nn.decoder import Pass
from moe.nn.documents import Documents
from tests import exports, parity, tiny
from tests.architectures import FAMILIES
from tests.asked import Asked
from tests.examples import examples
from tests.packed_rows import numbers

LENGTH = 12


@st.composite
def rows(draw: st.DrawFn, length: int = LENGTH) -> list[list[int]]:
    """Draw the lengths of the documents of some rows, full or not."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        own: list[int] = []
        for size in draw(st.lists(st.integers(1, length), min_size=1, max_size=5)):
            if sum(own) + size <= length:
                own.append(size)
        found.append(own)
    return found


def documents(sizes: list[list[int]], length: int = LENGTH) -> Documents:
    return Documents.of(torch.from_numpy(numbers(sizes, length)))


@given(rows())
def test_where_documents_lie(sizes: list[list[int]]) -> None:
    found = documents(sizes)
    assert found.sizes == tuple(map(tuple, sizes))
    runs = [size for own in sizes for size in (*own, LENGTH - sum(own)) if size]
    assert found.ends.tolist() == [sum(runs[:number]) for number in range(len(runs) + 1)]
    assert found.longest == max(runs)
    expected = torch.cat([torch.arange(size) for size in runs]).view(len(sizes), LENGTH)
    assert found.positions.equal(expected)
    full = all(sum(own) == LENGTH for own in sizes)
    assert (found.valid is None) is full
    if found.valid is not None:
        assert found.valid.sum(dim=1).tolist() == [sum(own) for own in sizes]


def by_mask(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    times = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value


@settings(max_examples=examples(40))
@given(sizes=rows(), window=st.none() | st.integers(1, 20))
def test_attention_one_by_one_is_attention_with_a_mask(
    sizes: list[list[int]], window: int | None
) -> None:
    found = documents(sizes)
    torch.manual_seed(0)
    count = len(sizes)
    inputs = [torch.randn(count, heads, LENGTH, 8, requires_grad=True) for heads in (4, 2, 2)]
    ours = attend_documents(inputs[0], inputs[1], inputs[2], window, found)
    theirs = by_mask(inputs[0], inputs[1], inputs[2], found.seen(window))
    counted = (found.numbers >= 0)[:, None, :, None]
    torch.testing.assert_close(ours, theirs * counted)
    weights = torch.randn_like(ours) * counted
    gradients = [torch.autograd.grad((each * weights).sum(), inputs) for each in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_a_gpu_without_flash_attention_gets_a_mask() -> None:
    """Tensors without memory stand for those of a GPU."""
    found = Documents.of(torch.from_numpy(numbers([[3, 4], [9], [1]], 9)), lambda x: x.to("meta"))
    with Asked() as asked:
        mixed = attend_documents(*on_meta(torch.float32), None, found)
    (((query, key, _), options),) = asked.calls
    assert mixed.shape == query.shape
    assert query.shape[1] == key.shape[1] == 4
    assert options["attn_mask"].shape == (3, 1, 9, 9)
    assert not options["is_causal"]


def test_a_gpu_with_flash_attention_gets_sequences_of_unlike_lengths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.backends.cuda.can_use_flash_attention", lambda asked: True)
    asked: list[tuple[Any, ...]] = []

    def ask(query: Tensor, key: Tensor, value: Tensor, *sizes: Any, **how: Any) -> Tensor:
        asked.append((*sizes, how["window_size"]))
        return torch.empty_like(query)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", ask)
    found = documents([[3, 4], [9], [1]], 9)
    inputs = on_meta(torch.bfloat16)
    for window, expected in ((None, (-1, 0)), (3, (2, 0))):
        assert attend_documents(*inputs, window, found).shape == (3, 4, 9, 8)
        *ends, one, other, seen = asked.pop()
        assert [each.tolist() for each in ends] == [[0, 3, 7, 9, 18, 19, 27]] * 2
        assert (one, other, seen) == (9, 9, expected)


def on_meta(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values of three rows, without memory."""
    query, key = (torch.empty(3, heads, 9, 8, device="meta", dtype=dtype) for heads in (4, 2))
    return query, key, key


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=examples(15))
@given(data=st.data())
def test_documents_of_a_row_compute_what_each_computes_alone(
    family: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Float64, but for gates: rounding does not hide that a document saw another."""
    config: ModelConfig = data.draw(FAMILIES[family])
    assume(config.moe is None or not config.moe.merged)
    checkpoint = Checkpoint.open(exports.export(config, tmp_path_factory.mktemp(family) / "model"))
    decoder = build(checkpoint.config, checkpoint.read).double()
    sizes = data.draw(rows())
    found = documents(sizes)
    tokens = tiny.tokens(config.vocab_size, len(sizes), LENGTH)
    together = decoder(tokens, Pass(documents=found, valid=found.valid))
    for row, own in enumerate(sizes):
        start = 0
        for size in own:
            alone = decoder(tokens[row : row + 1, start : start + size]).values[0]
            ours = together.values[row, start : start + size]
            torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-6)
            start += size
    for statistics in together.statistics.values():
        assert int(statistics.tokens) == sum(map(sum, sizes))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *((family, {}) for family in tiny.OF_FAMILY),
        ("mistral", {"sliding_window": 4}),
        ("mixtral", {"sliding_window": 3}),
    ],
)
def test_the_loss_is_that_of_transformers_on_each_document(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Labels of -100 and the mean over all that count, as a trainer without packing has it."""
    model = tiny.model(family, **changes)
    checkpoint = Checkpoint.open(tiny.saved(model, tmp_path))
    decoder, model = build(checkpoint.config, checkpoint.read).double(), model.double()
    sizes = [[5, 1, 6], [9], [3, 4]]
    found = documents(sizes)
    tokens, torch_labels, labels = labelled(found)
    total = int((labels != -100).sum())
    how = Pass(documents=found, valid=found.valid, logits=False)
    ours = decoder.loss(decoder(tokens, how).values, labels, 1.0 / total)
    ours.backward()
    theirs = torch.zeros((), dtype=torch.float64)
    for row, own in enumerate(sizes):
        for number in range(len(own)):
            inside = found.numbers[row] == number
            wanted = torch_labels[row, inside][None]
            if count := int((wanted[:, 1:] != -100).sum()):
                loss = model(tokens[row, inside][None], labels=wanted).loss
                theirs = theirs + loss * count / total
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    expected = parity.gradients(model)
    floor = 0.01 * max(gradient.abs().max().item() for gradient in expected.values())
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None
        assert parity.close(parameter.grad, expected[name], floor, 1e-5), name


def labelled(found: Documents) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, which of them count as transformers has it, and labels as we have it."""
    tokens = tiny.tokens(97, *found.numbers.shape)
    counted = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    theirs = tokens.masked_fill(~counted | (found.numbers < 0), -100)
    ours = theirs.roll(-1, dims=1)
    ours[:, -1] = -100
    return tokens, theirs, ours.masked_fill(found.positions.roll(-1, dims=1) == 0, -100)
