"""Sampling against probabilities computed directly."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.sampling import Sampling
from moe.errors import CheckpointError
from moe.nn.sampling import nucleus, sample, uniform
from tests.examples import examples

LOGITS = torch.tensor([0.5, 2.0, -1.0, 2.0, 0.0, -3.0, 1.2])
FAST = settings(max_examples=examples(60))


def draws(sampling: Sampling, count: int, logits: torch.Tensor = LOGITS) -> Counter[int]:
    return Counter(sample(logits, sampling, position).token for position in range(count))


def chi_square(counts: Counter[int], probabilities: torch.Tensor) -> float:
    total = sum(counts.values())
    expected = {token: total * p for token, p in enumerate(probabilities.tolist()) if p > 0}
    assert set(counts) <= set(expected)
    return sum((counts[token] - e) ** 2 / e for token, e in expected.items())


def test_greedy_takes_the_lowest_of_the_best() -> None:
    assert sample(LOGITS, Sampling(), 0).token == 1
    assert sample(torch.zeros(50_000), Sampling(), 7).token == 0


# 99.9 % of chi-square variables with 6 degrees of freedom lie below 22.5.
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("seed", [0, 1, -(2**63), 2**63 - 1])
def test_draws_follow_the_softmax(temperature: float, seed: int) -> None:
    counts = draws(Sampling(temperature=temperature, seed=seed), 4000)
    assert chi_square(counts, torch.softmax(LOGITS / temperature, 0)) < 22.5


@pytest.mark.parametrize("top_p", [0.3, 0.6, 0.9])
def test_the_nucleus_is_renormalised(top_p: float) -> None:
    probabilities = torch.softmax(LOGITS.double(), 0)
    kept, _ = nucleus(probabilities, top_p)
    truncated = torch.zeros_like(probabilities)
    truncated[kept] = probabilities[kept] / probabilities[kept].sum()
    counts = draws(Sampling(temperature=1.0, top_p=top_p), 4000)
    assert chi_square(counts, truncated) < 22.5


@FAST
@given(
    logits=st.lists(st.floats(-20, 20), min_size=1, max_size=30),
    top_p=st.floats(0, 1),
    temperature=st.floats(0.01, 3),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_the_nucleus_is_the_smallest_set_and_is_never_left(
    logits: list[float], top_p: float, temperature: float, seed: int
) -> None:
    row = torch.tensor(logits)
    probabilities = torch.softmax(row.double() / temperature, 0)
    kept, weights = nucleus(probabilities, top_p)
    outside = set(range(len(logits))) - set(kept.tolist())
    assert all(probabilities[token] <= weights[-1] for token in outside)
    assert math.isclose(sum(weights[:-1].tolist()), 0) or weights[:-1].sum() < top_p + 1e-12
    assert not outside or weights.sum() >= top_p - 1e-9
    for position in range(5):
        assert sample(row, Sampling(temperature, top_p, seed), position).token in kept


@FAST
@given(seed=st.integers(-(2**63), 2**63 - 1), position=st.integers(0, 10**6))
def test_a_draw_depends_on_seed_and_position_alone(seed: int, position: int) -> None:
    sampling = Sampling(temperature=1.5, seed=seed)
    first = sample(LOGITS, sampling, position)
    torch.manual_seed(position)
    torch.rand(3)
    assert sample(LOGITS.clone(), sampling, position) == first
    assert 0 <= uniform(seed, position) < 1


def test_seeds_and_positions_differ() -> None:
    numbers = {uniform(seed, position) for seed in range(50) for position in range(50)}
    assert len(numbers) == 2500


def test_log_probabilities_are_those_of_the_model() -> None:
    expected = torch.log_softmax(LOGITS, 0)
    found = sample(LOGITS, Sampling(temperature=0.2, top_p=0.5, seed=4, logprobs=3), 9)
    assert found.logprob == pytest.approx(expected[found.token].item(), abs=1e-6)
    assert [token for token, _ in found.top] == [1, 3, 6]
    assert [value for _, value in found.top] == pytest.approx(expected[[1, 3, 6]].tolist())
    assert sample(LOGITS, Sampling(), 0).top == ()
    assert len(sample(LOGITS, Sampling(logprobs=20), 0).top) == len(LOGITS)


def test_a_tiny_temperature_is_greedy_and_forbidden_tokens_stay_forbidden() -> None:
    assert set(draws(Sampling(temperature=1e-300), 20, torch.tensor([3e4, 1.0, 3.1e4]))) == {2}
    logits = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf])
    assert set(draws(Sampling(temperature=1.0), 200, logits)) == {1, 3}


def test_half_precision_logits_are_judged_in_single() -> None:
    logits = LOGITS.bfloat16()
    assert sample(logits, Sampling(), 0) == sample(logits.float(), Sampling(), 0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_damaged_logits_are_an_error(temperature: float) -> None:
    with pytest.raises(CheckpointError, match="position 12 are not numbers"):
        sample(torch.full((5,), math.nan), Sampling(temperature), 12)
