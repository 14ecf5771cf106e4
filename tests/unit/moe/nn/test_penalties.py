"""Penalties against those of transformers and against their definitions."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from moe.config.sampling import Sampling
from moe.nn.draw import Draw
from moe.nn.penalties import adjusted
from tests.examples import examples

FAST = settings(max_examples=examples(60))
TOKENS = st.lists(st.integers(0, 19), max_size=12)


def row(seed: int) -> torch.Tensor:
    return torch.randn(20, generator=torch.Generator().manual_seed(seed)) * 4


@FAST
@given(prompt=TOKENS, generated=TOKENS, penalty=st.floats(0.1, 5), seed=st.integers(0, 99))
def test_repetition_equals_transformers(
    prompt: list[int], generated: list[int], penalty: float, seed: int
) -> None:
    logits = row(seed)
    draw = Draw(Sampling(repetition_penalty=penalty), 0, prompt, generated)
    ids = torch.tensor([[*prompt, *generated]], dtype=torch.int64)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits[None].clone())
    torch.testing.assert_close(adjusted(logits, draw), expected[0], rtol=1e-6, atol=0)


@FAST
@given(generated=TOKENS, presence=st.floats(-2, 2), frequency=st.floats(-2, 2))
def test_presence_and_frequency_are_as_openai_defines_them(
    generated: list[int], presence: float, frequency: float
) -> None:
    logits = row(0)
    asked = Sampling(presence_penalty=presence, frequency_penalty=frequency)
    found = adjusted(logits, Draw(asked, 0, (3, 3), generated))
    expected = [
        value - generated.count(token) * frequency - (token in generated) * presence
        for token, value in enumerate(logits.tolist())
    ]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_bias_moves_single_tokens_and_the_logits_stay_as_they_were() -> None:
    logits = row(1)
    before = logits.clone()
    found = adjusted(logits, Draw(Sampling(logit_bias=((3, 2.5), (7, -100.0))), 0))
    assert torch.equal(logits, before)
    moved = (found - before).tolist()
    assert moved[3] == pytest.approx(2.5, abs=1e-5)
    assert moved[7] == pytest.approx(-100, abs=1e-4)
    assert sum(map(bool, moved)) == 2


@pytest.mark.parametrize(("generated", "forbidden"), [((), True), ((5,), True), ((5, 6), False)])
def test_an_answer_does_not_stop_too_early(generated: Any, forbidden: bool) -> None:
    asked = Sampling(min_tokens=2, stop_tokens=(1, 4))
    found = adjusted(row(2), Draw(asked, 0, (), generated))
    assert [token for token in range(20) if found[token] == -math.inf] == [1, 4] * forbidden


def test_a_finished_grammar_outweighs_the_least_length() -> None:
    asked = Sampling(min_tokens=2, stop_tokens=(1, 4))
    only_end = np.array([1 << 4], np.int32)
    assert int(adjusted(row(2), Draw(asked, 0, allowed=only_end)).argmax()) == 4
    also_five = np.array([1 << 4 | 1 << 5], np.int32)
    assert int(adjusted(row(2), Draw(asked, 0, allowed=also_five)).argmax()) == 5


@FAST
@given(allowed=st.sets(st.integers(0, 69)), size=st.integers(40, 80))
def test_a_mask_is_read_bit_by_bit(allowed: set[int], size: int) -> None:
    words = np.zeros(3, np.uint32)
    for token in allowed:
        words[token // 32] |= np.uint32(1 << (token % 32))
    found = adjusted(torch.zeros(size), Draw(Sampling(), 0, allowed=words.view(np.int32)))
    assert {token for token in range(size) if found[token] == 0} == {
        token for token in allowed if token < size
    }
