"""Several answers to one prompt, and the prompt in front of its answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from openai.types import CompletionChoice

from pipelines.serving.limits import Limits
from tests.serving import Server, served

PROMPT = "the quick brown fox"


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with served(model, Limits(waiting=9, prefill_tokens=5, idle_seconds=0.05)) as server:
        yield server


def completed(server: Server, **options: Any) -> Any:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 6} | options
    return server.client.completions.create(**asked)


def check_same(one: CompletionChoice, other: CompletionChoice) -> None:
    """Compare texts, and log-probabilities but for the rounding of other rows beside."""
    assert one.text == other.text
    assert one.logprobs is not None
    assert other.logprobs is not None
    assert one.logprobs.token_logprobs == pytest.approx(other.logprobs.token_logprobs, abs=1e-4)


def test_choices_differ_and_the_first_is_that_of_the_seed(server: Server) -> None:
    reply = completed(server, n=3, seed=5, logprobs=0)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len({choice.text for choice in reply.choices}) == 3
    alone = completed(server, seed=5, logprobs=0)
    check_same(reply.choices[0], alone.choices[0])
    for one, other in zip(
        completed(server, n=3, seed=5, logprobs=0).choices, reply.choices, strict=True
    ):
        check_same(one, other)
    assert reply.usage.prompt_tokens == alone.usage.prompt_tokens
    assert reply.usage.completion_tokens == 18
    server.rest()


def test_a_stream_has_all_choices_and_the_counts_so_far(server: Server) -> None:
    prompts = [PROMPT, "a mixture"]
    whole = completed(server, prompt=prompts, n=2, seed=1)
    server.rest()
    options = {"include_usage": True, "continuous_usage_stats": True}
    texts, counts = ["", "", "", ""], []
    for chunk in completed(
        server, prompt=prompts, n=2, seed=1, stream=True, stream_options=options
    ):
        counts.append(chunk.usage.completion_tokens)
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    assert counts == sorted(counts)
    assert chunk.usage == whole.usage
    server.rest()


def test_the_best_of_several_are_the_likeliest(server: Server) -> None:
    drawn = completed(server, n=4, seed=2, logprobs=0).choices
    server.rest()
    best = completed(server, n=2, best_of=4, seed=2)
    means = {
        choice.text: sum(choice.logprobs.token_logprobs) / len(choice.logprobs.tokens)
        for choice in drawn
    }
    expected = sorted(means, key=lambda text: -means[text])[:2]
    assert [choice.text for choice in best.choices] == expected
    assert [choice.index for choice in best.choices] == [0, 1]
    assert best.choices[0].logprobs is None
    assert best.usage.completion_tokens == 24
    server.rest()


@pytest.mark.parametrize("form", ["text", "tokens"])
@pytest.mark.parametrize("most", [0, 1, 4])
def test_an_echo_has_the_models_opinion_of_the_prompt(server: Server, form: str, most: int) -> None:
    """As lm-eval asks for it."""
    tokens = list(server.text.encode(PROMPT))
    prompt: Any = PROMPT if form == "text" else tokens
    asked = {"prompt": prompt, "max_tokens": most, "temperature": 0, "logprobs": 2, "seed": 1234}
    reply = completed(server, **asked, echo=True)
    (choice,) = reply.choices
    plain = completed(server, **asked | {"max_tokens": max(1, most)}).choices[0]
    assert choice.text == PROMPT + (plain.text if most else "")
    assert reply.usage.completion_tokens == (len(plain.logprobs.tokens) if most else 0)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(server.model).eval()
    with torch.no_grad():
        expected = torch.log_softmax(theirs(torch.tensor([tokens])).logits[0], -1)
    found = choice.logprobs
    assert found.tokens[: len(tokens)] == [server.text.token_text(token) for token in tokens]
    assert found.token_logprobs[0] is None
    assert found.top_logprobs[0] is None
    wanted = [expected[n, token].item() for n, token in enumerate(tokens[1:])]
    assert found.token_logprobs[1 : len(tokens)] == pytest.approx(wanted, abs=1e-4)
    for n, top in enumerate(found.top_logprobs[1 : len(tokens)]):
        assert max(top.values()) == pytest.approx(expected[n].max().item(), abs=1e-4)
        assert len(top) in (2, 3)
    if most:
        assert found.token_logprobs[len(tokens) :] == plain.logprobs.token_logprobs
    spelled = list(zip(found.text_offset, found.tokens, strict=True))
    assert all(choice.text[at:].startswith(token) for at, token in spelled[: len(tokens)])
    assert all(at >= len(PROMPT) for at, _ in spelled[len(tokens) :])
    server.rest()


def test_a_streamed_echo_is_the_same(server: Server) -> None:
    asked: Any = {"echo": True, "logprobs": 1, "n": 2, "seed": 4}
    whole = completed(server, **asked)
    server.rest()
    texts, tokens = ["", ""], [[], []]
    for chunk in completed(server, **asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            tokens[choice.index] += choice.logprobs.token_logprobs
    assert texts == [choice.text for choice in whole.choices]
    assert tokens == [choice.logprobs.token_logprobs for choice in whole.choices]
    server.rest()


def test_an_echo_without_logprobs_and_of_a_single_token(server: Server) -> None:
    assert completed(server, echo=True, temperature=0).choices[0].text.startswith(PROMPT)
    found = completed(server, prompt=[5], echo=True, logprobs=1, max_tokens=1, temperature=0)
    assert found.choices[0].logprobs.token_logprobs[0] is None
    server.rest()


def test_choices_of_a_chat(server: Server) -> None:
    talk: Any = [{"role": "user", "content": "the"}]
    asked: Any = {"model": "tiny", "messages": talk, "max_tokens": 6, "seed": 3, "n": 3}
    whole = server.client.chat.completions.create(**asked)
    server.rest()
    texts = [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 3
    streamed, roles, ends = ["", "", ""], [], []
    for chunk in server.client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            roles += [choice.index] if choice.delta.role else []
            ends += [choice.index] if choice.finish_reason else []
    assert streamed == texts
    assert sorted(roles) == sorted(ends) == [0, 1, 2]
