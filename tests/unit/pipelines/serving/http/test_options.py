"""Options of sampling and of the form of an answer, as far as the answers show them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pydantic
import pytest
import torch
import transformers

from pipelines.serving.limits import Limits
from tests.serving import Server, get, served

PROMPT = "the quick brown fox"
TALK: Any = [{"role": "user", "content": "the"}]


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with served(model, Limits(waiting=9, prefill_tokens=5, idle_seconds=0.05)) as server:
        yield server


def completed(server: Server, max_tokens: int = 12, **body: Any) -> Any:
    """Return the choice of a completion, with whatever options."""
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": max_tokens, "logprobs": 0} | body
    status, reply = get(server, "/v1/completions", "POST", json.dumps(asked))
    assert status == 200, reply
    return reply["choices"][0]


def test_the_repetition_penalty_is_that_of_transformers(server: Server) -> None:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(server.model).eval()
    prompt = list(server.text.encode(PROMPT))
    output = theirs.generate(
        torch.tensor([prompt]),
        max_new_tokens=20,
        do_sample=False,
        repetition_penalty=1.7,
        pad_token_id=1,
    )
    expected = server.text.decode(output[0, len(prompt) :].tolist())
    asked = {"temperature": 0, "repetition_penalty": 1.7}
    assert completed(server, 20, **asked)["text"] == expected


def test_a_frequent_token_makes_room_for_others(server: Server) -> None:
    forced = {str(token): 100 for token in (10, 11, 12)}
    asked = {"temperature": 0, "logit_bias": forced, "frequency_penalty": 2.0}
    found = completed(server, 60, **asked)["logprobs"]["tokens"]
    assert set(found) == {server.text.token_text(int(token)) for token in forced}


def test_a_bias_forces_and_forbids(server: Server) -> None:
    token = server.text.encode("dog")[0]
    found = completed(server, 4, logit_bias={str(token): 100})["logprobs"]["tokens"]
    assert found == [server.text.token_text(token)] * 4
    best = completed(server, 1, temperature=0)["logprobs"]["tokens"][0]
    (number,) = [n for n in range(320) if server.text.token_text(n) == best][:1]
    other = completed(server, 1, temperature=0, logit_bias={str(number): -100})
    assert other["logprobs"]["tokens"] != [best]


def test_one_kept_token_is_greedy(server: Server) -> None:
    greedy = completed(server, temperature=0)["text"]
    for kept in ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 0.0}):
        assert completed(server, temperature=1.9, seed=1, **kept)["text"] == greedy
    for neutral in ({"top_k": -1}, {"top_k": 0}, {"min_p": 0}, {"repetition_penalty": 1.0}):
        drawn = completed(server, temperature=1.9, seed=1, **neutral)["text"]
        assert drawn == completed(server, temperature=1.9, seed=1)["text"]


def test_end_tokens_end_or_are_passed_over(server: Server) -> None:
    ending = {"logit_bias": {"1": 100}, "temperature": 0}
    found = completed(server, 5, **ending)
    assert (found["finish_reason"], found["text"]) == ("stop", "")
    found = completed(server, 5, ignore_eos=True, **ending)
    assert found["finish_reason"] == "length"
    found = completed(server, 5, min_tokens=3, **ending)
    assert found["finish_reason"] == "stop"
    assert len(found["logprobs"]["tokens"]) == 3
    token = server.text.encode("dog")[0]
    forced = {"logit_bias": {str(token): 100}, "temperature": 0}
    assert completed(server, 5, stop_token_ids=[token], **forced)["finish_reason"] == "stop"
    assert completed(server, 5, stop_token_ids=[token], ignore_eos=True, **forced)["text"] == ""
    server.rest()


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["fox", "dog"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
NAMED = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}


@pytest.mark.parametrize(
    "asked",
    [
        {"response_format": NAMED},
        {"structured_outputs": {"json": SCHEMA}},
        {"guided_json": json.dumps(SCHEMA)},
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_json_fits_its_schema(server: Server, asked: Any, seed: int) -> None:
    found = completed(server, 150, seed=seed, **asked)
    assert found["finish_reason"] == "stop"
    jsonschema.validate(json.loads(found["text"]), SCHEMA)
    body = {"model": "tiny", "messages": TALK, "max_tokens": 150, "seed": seed} | asked
    _, reply = get(server, "/v1/chat/completions", "POST", json.dumps(body))
    jsonschema.validate(json.loads(reply["choices"][0]["message"]["content"]), SCHEMA)


def test_the_clients_own_parser_reads_an_answer(server: Server) -> None:
    class Animal(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=5)
        legs: int = pydantic.Field(ge=0, le=9)

    reply = server.client.chat.completions.parse(
        model="tiny", messages=TALK, response_format=Animal, max_tokens=200, seed=1
    )
    assert isinstance(reply.choices[0].message.parsed, Animal)


@pytest.mark.parametrize(
    ("asked", "expression"),
    [
        ({"guided_regex": "[a-c]{3}(fox|dog)"}, "[a-c]{3}(fox|dog)"),
        ({"structured_outputs": {"choice": ["yes", "né"]}}, "yes|né"),
        ({"guided_choice": ["yes"]}, "yes"),
        ({"guided_grammar": 'start: "a" B\nB: /[xy]+/\n'}, "a[xy]+"),
        ({"guided_regex": "a{5}", "temperature": 0, "stop": "aaa"}, ""),
        ({"guided_choice": ["dog"], "min_tokens": 9, "temperature": 0}, "dog"),
    ],
)
def test_answers_keep_to_their_form(server: Server, asked: Any, expression: str) -> None:
    for seed in range(3):
        found = completed(server, 60, seed=seed, **asked)
        if found["finish_reason"] == "stop":
            assert re.fullmatch(expression, found["text"])
    server.rest()


@pytest.mark.parametrize(
    ("asked", "param", "said"),
    [
        ({"guided_regex": "(a"}, "guided_regex", "unclosed group|invalid regex"),
        ({"guided_json": "{"}, "guided_json", "the schema is not JSON"),
        ({"guided_json": "3"}, "guided_json", "the schema is 3; give an object"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 3}}}},
         "response_format", "type must be a string"),
        ({"guided_json": {"not": {}}}, "guided_json", "Unimplemented keys"),
        ({"guided_json": {"$ref": "http://localhost/x"}}, "guided_json", "does not fetch"),
        ({"guided_json": {"$ref": "#"}}, "guided_json", "no text fits it"),
        ({"guided_grammar": "start: ("}, "guided_grammar", "Expected token"),
    ],
)  # fmt: skip
def test_what_is_no_form_is_refused(server: Server, asked: Any, param: str, said: str) -> None:
    body = {"model": "tiny", "prompt": "a"} | asked
    status, reply = get(server, "/v1/completions", "POST", json.dumps(body))
    assert status == 400
    assert reply["error"]["param"] == param
    assert re.search(said, reply["error"]["message"])
