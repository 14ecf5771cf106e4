"""Sampling against probabilities computed directly."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.sampling import SampledToken, Sampling
from moe.errors import CheckpointError, RequestError
from moe.nn.sampling import Draw, sample, score, uniform
from tests.examples import examples

LOGITS = torch.tensor([0.5, 2.0, -1.0, 2.0, 0.0, -3.0, 1.2])
FAST = settings(max_examples=examples(60))


def one(logits: torch.Tensor, sampling: Sampling, position: int = 0, **known: Any) -> SampledToken:
    (token,) = sample(logits[None], [Draw(sampling, position, **known)])
    return token


def draws(sampling: Sampling, count: int, logits: torch.Tensor = LOGITS) -> Counter[int]:
    rows = logits.expand(count, -1)
    asked = [Draw(sampling, position) for position in range(count)]
    return Counter(each.token for each in sample(rows, asked))


def chi_square(counts: Counter[int], probabilities: torch.Tensor) -> float:
    total = sum(counts.values())
    expected = {token: total * p for token, p in enumerate(probabilities.tolist()) if p > 0}
    assert set(counts) <= set(expected)
    return sum((counts[token] - e) ** 2 / e for token, e in expected.items())


def test_greedy_takes_the_lowest_of_the_best() -> None:
    for logprobs in (None, 0):
        assert one(LOGITS, Sampling(logprobs=logprobs)).token == 1
        assert one(torch.zeros(50_000), Sampling(logprobs=logprobs), 7).token == 0


# 99.9 % of chi-square variables with 6 degrees of freedom lie below 22.5.
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("seed", [0, 1, -(2**63), 2**63 - 1])
def test_draws_follow_the_softmax(temperature: float, seed: int) -> None:
    counts = draws(Sampling(temperature=temperature, seed=seed), 4000)
    assert chi_square(counts, torch.softmax(LOGITS / temperature, 0)) < 22.5


@pytest.mark.parametrize("kept", [{"top_p": 0.6}, {"top_k": 3}, {"min_p": 0.2}])
def test_what_is_kept_is_renormalised(kept: Any) -> None:
    probabilities = torch.softmax(LOGITS.double(), 0)
    probabilities[[0, 2, 4, 5]] = 0
    if "top_p" in kept:
        probabilities[6] = 0
    if "min_p" in kept:
        probabilities[0] = torch.softmax(LOGITS.double(), 0)[0]
    counts = draws(Sampling(temperature=1.0, **kept), 4000)
    assert chi_square(counts, probabilities / probabilities.sum()) < 22.5


@FAST
@given(seed=st.integers(-(2**63), 2**63 - 1), position=st.integers(0, 10**6))
def test_a_draw_depends_on_seed_and_position_alone(seed: int, position: int) -> None:
    sampling = Sampling(temperature=1.5, seed=seed)
    first = one(LOGITS, sampling, position)
    torch.manual_seed(position)
    torch.rand(3)
    assert one(LOGITS.clone(), sampling, position) == first
    assert 0 <= uniform(seed, position) < 1


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.0, 0.7, 1.3]),
    top_p=st.sampled_from([1.0, 0.9, 0.0]),
    seed=st.integers(0, 2**62),
    logprobs=st.sampled_from([None, 0, 3]),
    top_k=st.sampled_from([0, 5]),
    min_p=st.sampled_from([0.0, 0.05]),
    presence_penalty=st.sampled_from([0.0, 1.1]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    logit_bias=st.sampled_from([(), ((3, 2.5),)]),
    min_tokens=st.sampled_from([0, 9]),
    stop_tokens=st.just((1, 2)),
)


@FAST
@given(samplings=st.lists(SAMPLINGS, min_size=1, max_size=6), seed=st.integers(0, 10**6))
def test_a_row_knows_nothing_of_its_neighbours(samplings: list[Sampling], seed: int) -> None:
    """Bit for bit, whatever the others ask for and wherever the row lies."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(samplings), 1037, generator=generator) * 3
    asked = [Draw(each, n + 4, (5, 6), (7, 7, n)) for n, each in enumerate(samplings)]
    together = sample(rows, asked)
    alone = [sample(rows[n : n + 1].clone(), [draw])[0] for n, draw in enumerate(asked)]
    assert together == alone
    assert sample(rows.flip(0), asked[::-1]) == together[::-1]


def test_seeds_and_positions_differ() -> None:
    numbers = {uniform(seed, position) for seed in range(50) for position in range(50)}
    assert len(numbers) == 2500


def test_log_probabilities_are_those_of_the_model() -> None:
    expected = torch.log_softmax(LOGITS, 0)
    asked = Sampling(temperature=0.2, top_p=0.5, seed=4, logprobs=3, logit_bias=((6, 0.1),))
    found = one(LOGITS, asked, 9)
    assert found.logprob == pytest.approx(expected[found.token].item(), abs=1e-6)
    assert [token for token, _ in found.top] == [1, 3, 6]
    assert [value for _, value in found.top] == pytest.approx(expected[[1, 3, 6]].tolist())
    assert one(LOGITS, Sampling()) == SampledToken(1, 0.0)
    assert one(LOGITS, Sampling(logprobs=0)).top == ()
    assert one(LOGITS, Sampling(logprobs=0)).logprob < 0
    assert len(one(LOGITS, Sampling(logprobs=20)).top) == len(LOGITS)


def test_given_tokens_are_scored_as_drawn_ones_are() -> None:
    rows = torch.stack([LOGITS, LOGITS.flip(0)])
    expected = torch.log_softmax(rows, -1)
    scores = score(rows, [2, 6], 2)
    assert [each.token for each in scores] == [2, 6]
    assert [each.logprob for each in scores] == pytest.approx(
        [expected[0, 2].item(), expected[1, 6].item()]
    )
    assert [[token for token, _ in each.top] for each in scores] == [[1, 3], [3, 5]]
    assert score(rows, [1, 0], 0)[0].top == ()
    for count in (0, 1):
        few = [replace(each, top=each.top[:count]) for each in scores]
        assert score(rows, [2, 6], count) == few
    drawn = sample(rows, [Draw(Sampling(logprobs=2), n) for n in range(2)])
    assert score(rows, [each.token for each in drawn], 2) == drawn
    with pytest.raises(CheckpointError, match="position 1 are not numbers"):
        score(torch.stack([LOGITS, LOGITS * math.nan]), [0, 0], 0)


def test_a_tiny_temperature_is_greedy_and_forbidden_tokens_stay_forbidden() -> None:
    assert set(draws(Sampling(temperature=1e-300), 20, torch.tensor([3e4, 1.0, 3.1e4]))) == {2}
    logits = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf])
    assert set(draws(Sampling(temperature=1.0), 200, logits)) == {1, 3}


def test_half_precision_logits_are_judged_in_single() -> None:
    logits = LOGITS.bfloat16()
    for asked in (Sampling(), Sampling(logprobs=2), Sampling(presence_penalty=1.0)):
        assert one(logits, asked) == one(logits.float(), asked)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0), Sampling(logprobs=0)])
def test_damaged_logits_are_an_error(sampling: Sampling) -> None:
    rows = torch.stack([torch.zeros(5), torch.full((5,), math.nan)])
    with pytest.raises(CheckpointError, match="position 12 are not numbers"):
        sample(rows, [Draw(Sampling(), 3), Draw(sampling, 12)])


def mask(*tokens: int) -> Any:
    words = np.zeros(1, np.uint32)
    for token in tokens:
        words[token // 32] |= np.uint32(1 << (token % 32))
    return words.view(np.int32)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_allowed_tokens_are_drawn(temperature: float) -> None:
    for position in range(30):
        found = one(LOGITS, Sampling(temperature, logprobs=0), position, allowed=mask(2, 5))
        assert found.token in ((2, 5) if temperature else (2,))
        assert found.logprob == torch.log_softmax(LOGITS, 0)[found.token].item()
    longer = torch.cat([torch.zeros(32), torch.ones(8)])
    assert one(longer, Sampling(temperature), 0, allowed=mask(31)).token == 31
    with pytest.raises(RequestError, match="allows no token at position 4"):
        one(LOGITS, Sampling(temperature), 4, allowed=mask())
