"""One generation: equal to transformers, fed in any pieces; where it ends; what it shows."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe.config.sampling import SampledToken, Sampling
from pipelines.serving.batching.batcher import Batcher, Room
from pipelines.serving.batching.sequence import Wanted
from pipelines.serving.generation.generation import Delta, Generation, Job
from pipelines.serving.text.text import Text
from tests import vocabularies
from tests.examples import examples
from tests.local_decoder import BLOCKS, LocalDecoder, continued

FAST = settings(max_examples=examples(25), suppress_health_check=list(HealthCheck))
GREEDY = Sampling(temperature=0.0)


def said(text: Text, answer: str, job: Job, end: bool = False) -> list[Delta]:
    """Return the deltas of a model that says an answer, and then perhaps ends."""
    script = (*text.encode(answer), *((1,) if end else ()))
    job = replace(job, stop_tokens=text.eos)
    drawn = [SampledToken(token, -1.0) for token in script]
    return deltas(Generation(job, text.detokenizer()), drawn)


def deltas(generation: Generation, tokens: Iterable[SampledToken]) -> list[Delta]:
    """Return the deltas of a model that draws these tokens, until the generation has ended."""
    found = []
    for token in tokens:
        delta = generation.accept(token)
        if delta is not None:
            found.append(delta)
        if generation.finished:
            break
    return found


def joined(found: list[Delta]) -> str:
    return "".join(delta.text for delta in found)


def oracle(model: Path, prompt: tuple[int, ...], count: int) -> list[int]:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    output = theirs.generate(
        torch.tensor([prompt]), max_new_tokens=count, do_sample=False, pad_token_id=1
    )
    return list(output[0, len(prompt) :].tolist())


@pytest.mark.parametrize("prompt", ["the quick brown fox", "a", "naïve 🙂 наука" * 3])
def test_greedy_equals_transformers(model: Path, prompt: str) -> None:
    text, engine = Text.open(model), LocalDecoder(model)
    tokens = text.encode(prompt)
    job = Job(tokens, 40, GREEDY, stop_tokens=text.eos)
    generation = Generation(job, text.detokenizer())
    found = deltas(generation, continued(engine, tokens, 40))
    expected = oracle(model, tokens, 40)
    shown = [token.sampled.token for delta in found for token in delta.tokens]
    assert shown == [token for token in expected if token != 1]
    assert found[-1].generated == len(expected)
    assert found[-1].finish == ("stop" if expected[-1] == 1 else "length")
    assert joined(found) == text.decode(expected)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    path = tmp_path_factory.mktemp("tokenizer")
    (path / "config.json").write_text("{}")
    return Text.open(vocabularies.save(vocabularies.byte_level(), path))


@FAST
@given(
    answer=st.text(st.characters(codec="utf-8"), min_size=1, max_size=25),
    stops=st.lists(st.text(min_size=1, max_size=3), max_size=3),
)
def test_streamed_text_ends_before_the_stop(text: Text, answer: str, stops: list[str]) -> None:
    found = said(text, answer, Job((5,), 1000, GREEDY, tuple(stops)), end=True)
    cuts = [answer.find(stop) for stop in stops if stop in answer]
    assert answer.startswith(joined(found))
    assert not any(stop in joined(found) for stop in stops)
    assert len(joined(found)) >= min(cuts, default=len(answer))
    assert found[-1].finish == "stop"


def test_tokens_come_with_their_text_and_those_of_the_stop_do_not(text: Text) -> None:
    found = said(text, "the dog 🙂 END of it", Job((5,), 1000, GREEDY, ("END",)))
    assert joined(found) == "the dog 🙂 "
    tokens = [token for delta in found for token in delta.tokens]
    spelled = b"".join(text.token_bytes(token.sampled.token) for token in tokens).decode()
    assert spelled == "the dog 🙂 "
    assert [token.offset for token in tokens] == sorted(token.offset for token in tokens)
    assert tokens[-1].offset == len("the dog 🙂")
    assert found[-1].generated > len(tokens)


def test_the_limit_cuts_and_shows_what_was_held_back(text: Text) -> None:
    words = text.encode("the dog 🙂")
    found = said(text, "the dog 🙂", Job((5,), len(words) - 1, GREEDY, ("🙂!",)))
    assert joined(found) == "the dog \N{REPLACEMENT CHARACTER}"
    assert found[-1].finish == "length"
    assert sum(len(delta.tokens) for delta in found) == len(words) - 1
    assert [delta.finish for delta in found[:-1]] == [None] * (len(found) - 1)


def test_a_constraint_follows_the_tokens_and_ends_the_answer(text: Text) -> None:
    matcher = text.grammars.matcher('start: "the dog" | "the fox"', "grammar")
    job = Job((5,), 50, GREEDY, (), text.eos, constraint=matcher)
    generation = Generation(job, text.detokenizer())
    shown = ""
    while not generation.finished:
        bits = np.unpackbits(matcher.allowed().view(np.uint8), bitorder="little")
        found = generation.accept(SampledToken(int(bits.nonzero()[0][-1]), 0.0))
        shown += "" if found is None else found.text
    assert shown in ("the dog", "the fox")
    assert found is not None
    assert found.finish == "stop"


@pytest.mark.parametrize("piece", [1, 3, 512])
def test_a_prompt_is_scored_in_any_pieces(model: Path, piece: int) -> None:
    text, engine = Text.open(model), LocalDecoder(model)
    prompt = text.encode("the quick brown fox")
    batcher = Batcher(Room(BLOCKS, 1))
    batcher.add(Wanted(prompt, 2, GREEDY, scored=2))
    generation = Generation(Job(prompt, 2, GREEDY, scored=2), text.detokenizer())
    while not generation.generated:
        batch = batcher.next(piece)
        assert batch is not None
        (outcome,) = batcher.take(batch, engine.finish(engine.begin(batch)))
        generation.accept_scores(outcome.scores)
        if outcome.token is not None:
            generation.accept(outcome.token)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    with torch.no_grad():
        expected = torch.log_softmax(theirs(torch.tensor([prompt])).logits[0], -1)
    assert [score.token for score in generation.scores] == list(prompt[1:])
    wanted = [expected[n, token].item() for n, token in enumerate(prompt[1:])]
    assert [score.logprob for score in generation.scores] == pytest.approx(wanted, abs=1e-4)
    assert all(len(score.top) == 2 for score in generation.scores)


def test_stop_tokens_end_an_answer_without_text(text: Text) -> None:
    (token,) = text.encode("d")
    job = Job((5,), 50, GREEDY, stop_tokens=frozenset({token}))
    script = (*text.encode("the "), token, *text.encode("og"))
    drawn = [SampledToken(each, 0.0) for each in script]
    found = deltas(Generation(job, text.detokenizer()), drawn)
    assert joined(found) == "the "
    assert (found[-1].finish, found[-1].generated) == ("stop", len(text.encode("the ")) + 1)
