"""Figures of answers: percentiles by hand, tokens by whoever counted them, nothing hidden."""

from pathlib import Path

import pytest

from pipelines.loading.answer import Answer, Failure
from pipelines.loading.figures import figures
from pipelines.loading.prompt import Prompt
from pipelines.loading.tokenizer import LoadTokenizer
from tests import vocabularies


def answer(due: float, *moments: float, tokens: int | None = None) -> Answer:
    """Return a request whose last moment is its end."""
    return Answer(due, due, moments[-1], moments[:-1], "the dog", 7 if tokens else None, tokens)


def test_percentiles_and_rates() -> None:
    answers = [answer(0.0, 0.1 * n, 0.1 * n + 0.5, 10.0, tokens=2) for n in range(1, 11)]
    found = figures(answers)
    assert found.first_token is not None
    assert found.first_token.p50 == pytest.approx(0.55)
    assert found.first_token.p90 == pytest.approx(0.91)
    assert found.first_token.most == pytest.approx(1.0)
    assert found.between_tokens is not None
    assert found.between_tokens.p99 == pytest.approx(0.5)
    assert found.end_to_end is not None
    assert found.end_to_end.mean == pytest.approx(10.0)
    assert found.seconds == pytest.approx(10.0)
    assert found.rates == pytest.approx(
        {
            "requests_per_second": 1.0,
            "prompt_tokens_per_second": 7.0,
            "output_tokens_per_second": 2.0,
        }
    )
    assert found.counted_by == "the server"


def test_a_token_takes_its_share_where_several_come_at_once() -> None:
    found = figures([answer(0.0, 1.0, 2.0, 2.0, tokens=5)])
    assert found.per_token is not None
    assert found.per_token.p50 == pytest.approx(0.25)
    assert (found.output_tokens, found.events) == (5, 2)


def test_failures_count_apart_and_change_no_latency() -> None:
    wrong = Answer(0.0, 0.1, 99.0, (50.0,), failure=Failure("refused", "first", 429))
    others = [
        Answer(0.0, 0.0, 1.0, failure=Failure("refused", "second", 429)),
        Answer(0.0, 0.0, 1.0, failure=Failure("timeout", "slow")),
    ]
    found = figures([answer(0.0, 1.0, 2.0, tokens=1), wrong, *others])
    assert [(f.name, f.count, f.message) for f in found.faults] == [
        ("refused with status 429", 2, "first"),
        ("timeout", 1, "slow"),
    ]
    assert (found.requests, found.answered, found.failed) == (4, 1, 3)
    assert found.first_token is not None
    assert found.first_token.most == 1.0
    assert found.late == pytest.approx(0.1)
    assert found.seconds == 99.0


def test_a_tokenizer_counts_what_the_server_does_not(tmp_path: Path) -> None:
    folder = vocabularies.save(vocabularies.byte_level(), tmp_path)
    tokenizer = LoadTokenizer(folder)
    answers = [answer(0.0, 1.0, 2.0, tokens=1), answer(0.0, 1.0, 2.0)]
    prompts = [Prompt(text="the quick brown fox"), Prompt(ids=(1, 2, 3))]
    uncounted = figures(answers)
    assert (uncounted.counted_by, uncounted.output_tokens) == ("events", 2)
    assert uncounted.prompt_tokens is None
    assert uncounted.rates["prompt_tokens_per_second"] is None
    found = figures(answers, prompts, tokenizer)
    assert found.counted_by == "the tokenizer"
    assert found.output_tokens == 2 * tokenizer.count("the dog")
    assert found.prompt_tokens == 7 + 3


def test_those_who_left_are_counted_by_what_they_saw() -> None:
    gone = Answer(0.0, 0.0, 3.0, (1.0, 2.0, 3.0), left=True)
    found = figures([answer(0.0, 1.0, 2.0, 4.0, tokens=2), gone])
    assert (found.answered, found.left, found.output_tokens) == (1, 1, 5)
    assert found.prompt_tokens == 7
    assert found.counted_by == "the server"
