"""What may be drawn, against the warpers of transformers and against the definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from moe.config.sampling import Sampling
from moe.nn.truncation import likeliest, truncated
from tests.examples import examples

FAST = settings(max_examples=examples(60))


@FAST
@given(
    top_k=st.integers(0, 50),
    top_p=st.floats(0.001, 1),
    min_p=st.floats(0, 1),
    size=st.integers(1, 40),
    seed=st.integers(0, 999),
)
def test_the_kept_tokens_are_those_of_transformers(
    top_k: int, top_p: float, min_p: float, size: int, seed: int
) -> None:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed)).double() * 3
    rows = logits[None].clone()
    if top_k:
        rows = TopKLogitsWarper(top_k)(None, rows)
    rows = MinPLogitsWarper(min_p)(None, TopPLogitsWarper(top_p)(None, rows))
    expected = {token for token in range(size) if rows[0, token] > -math.inf}
    probabilities = torch.softmax(logits, 0)
    tokens, kept = truncated(probabilities, Sampling(top_k=top_k, top_p=top_p, min_p=min_p))
    assert set(tokens.tolist()) == expected
    assert torch.equal(probabilities[tokens], kept)


@FAST
@given(
    logits=st.lists(st.floats(-20, 20), min_size=1, max_size=30),
    top_p=st.floats(0, 1),
    temperature=st.floats(0.01, 3),
)
def test_the_nucleus_is_the_smallest_set(
    logits: list[float], top_p: float, temperature: float
) -> None:
    probabilities = torch.softmax(torch.tensor(logits).double() / temperature, 0)
    kept, weights = truncated(probabilities, Sampling(top_p=top_p))
    outside = set(range(len(logits))) - set(kept.tolist())
    assert all(probabilities[token] <= weights[-1] for token in outside)
    assert math.isclose(sum(weights[:-1].tolist()), 0) or weights[:-1].sum() < top_p + 1e-12
    assert not outside or weights.sum() >= top_p - 1e-9


@pytest.mark.parametrize("width", [0.01, 1.0, 4.0])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_candidates_of_a_large_vocabulary_are_enough(width: float, top_p: float) -> None:
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(1)).double() * width
    rows = TopPLogitsWarper(top_p)(None, logits[None].clone())
    tokens, _ = truncated(torch.softmax(logits, 0), Sampling(top_p=top_p))
    assert set(tokens.tolist()) == set(rows[0].isfinite().nonzero().flatten().tolist())


@FAST
@given(st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=1, max_size=9), st.integers(1, 12))
def test_of_equal_values_the_lower_token_comes_first(values: list[float], count: int) -> None:
    tokens, kept = likeliest(torch.tensor(values), count)
    expected = sorted(range(len(values)), key=lambda token: (-values[token], token))[:count]
    assert tokens.tolist() == expected
    assert kept.tolist() == [values[token] for token in expected]
