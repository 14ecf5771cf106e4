"""Windows that overlap, against the recipe on transformers' page, by transformers' own model."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import ConfigError
from pipelines.corpus.shards import TokenShards
from pipelines.corpus.tokenize import TokenizeOptions, tokenize
from pipelines.models.evaluate import EvaluateOptions, evaluate
from pipelines.models.scoring.windows import Window, spans
from tests import tiny, vocabularies


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and shards whose held-out split is one document, longer than a row."""
    folder = tmp_path_factory.mktemp("windows")
    vocabulary = vocabularies.byte_level()
    made = tiny.mixtral(vocab_size=vocabulary.get_vocab_size())
    vocabularies.save(vocabulary, tiny.saved(made, folder / "model"))
    (folder / "text").mkdir()
    for name in "ab":
        words = " ".join(f"{name}{number * number % 97}" for number in range(120))
        (folder / "text" / f"{name}.txt").write_text(words)
    options = TokenizeOptions(sequence_length=16, held_out_fraction=0.5)
    tokenize([folder / "text"], folder / "model", folder / "tokens", options)
    return folder


def recipe(model: Any, tokens: torch.Tensor, size: int, stride: int) -> tuple[float, float]:
    """Return the mean loss by the page's script, and with each predicted token counted once."""
    nll_sum = exact_sum = 0.0
    n_tokens = exact = previous = 0
    for begin in range(0, tokens.shape[1], stride):
        end = min(begin + size, tokens.shape[1])
        fresh = end - previous
        inputs = tokens[:, begin:end]
        targets = inputs.clone()
        targets[:, :-fresh] = -100
        with torch.no_grad():
            loss = model(inputs, labels=targets).loss.item()
        counted = int((targets != -100).sum()) - 1
        nll_sum += loss * counted
        n_tokens += counted
        predicted = int((targets[:, 1:] != -100).sum())
        exact_sum += loss * predicted
        exact += predicted
        previous = end
        if end == tokens.shape[1]:
            break
    return nll_sum / n_tokens, exact_sum / exact


@pytest.mark.parametrize(("size", "stride"), [(16, 16), (24, 8), (30, 1), (64, 13)])
def test_the_loss_is_that_of_the_recipe(folder: Path, size: int, stride: int) -> None:
    options = EvaluateOptions(batch=3, window=Window(size, stride))
    found = evaluate(folder / "model", folder / "tokens", options)
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(folder / "model")
    shards = TokenShards.open(folder / "tokens", "held_out")
    rows = shards.batch(range(len(shards))).tokens
    tokens = torch.from_numpy(rows.reshape(1, -1)).long()
    by_recipe, exact = recipe(theirs, tokens, size, stride)
    assert found.recipe_loss == pytest.approx(by_recipe, rel=1e-5)
    assert found.loss == pytest.approx(exact, rel=1e-5)
    assert found.tokens == tokens.shape[1] - 1 if stride < size else found.tokens


def test_windows_of_a_row_side_by_side_are_the_rows(folder: Path) -> None:
    windows = EvaluateOptions(split="train", window=Window(16, 16))
    found = evaluate(folder / "model", folder / "tokens", windows)
    expected = evaluate(folder / "model", folder / "tokens", EvaluateOptions(split="train"))
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.tokens == expected.tokens


@given(st.integers(2, 40), st.integers(2, 12), st.data())
def test_every_token_but_the_first_is_predicted_once(
    tokens: int, size: int, data: st.DataObject
) -> None:
    window = Window(size, data.draw(st.integers(1, size - 1)))
    times = np.zeros(tokens, dtype=int)
    for span in spans(tokens, window):
        assert span.stop - span.start <= size
        times[max(span.first, span.start + 1) : span.stop] += 1
    assert times[0] == 0
    assert (times[1:] == 1).all()


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (8, 0), (8, 9)])
def test_windows_that_are_none_are_refused(size: int, stride: int) -> None:
    with pytest.raises(ConfigError, match="give a window of 2"):
        Window(size, stride)


def test_a_window_longer_than_the_model_is_refused(folder: Path) -> None:
    options = EvaluateOptions(window=Window(10**6, 5))
    with pytest.raises(ConfigError, match="give a smaller window"):
        evaluate(folder / "model", folder / "tokens", options)


def test_bits_per_byte_are_those_of_the_text(folder: Path) -> None:
    found = evaluate(folder / "model", folder / "tokens", EvaluateOptions(window=Window(32, 16)))
    shards = TokenShards.open(folder / "tokens", "held_out")
    rows = shards.batch(range(len(shards))).tokens.reshape(-1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    text = tokenizer.decode(rows[1:], skip_special_tokens=True)
    assert found.bytes == len(text.encode())
    bits = found.loss * found.tokens / math.log(2)
    assert found.bits_per_byte == pytest.approx(bits / len(text.encode()))
