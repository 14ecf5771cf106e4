"""Tokens without an answer, and the figures of the server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.serving.limits import Limits
from tests.serving import Server, get, sent, served


@pytest.fixture
def server(model: Path) -> Iterator[Server]:
    with served(model, Limits(idle_seconds=0.05)) as server:
        yield server


def posted(server: Server, path: str, body: Any) -> Any:
    return get(server, path, "POST", json.dumps(body))


def test_text_to_tokens_and_back(server: Server) -> None:
    text = "the dog 🙂</s>"
    status, reply = posted(server, "/tokenize", {"prompt": text, "return_token_strs": True})
    assert status == 200
    assert reply["tokens"] == list(server.text.encode(text))
    assert reply["count"] == len(reply["tokens"]) == len(reply["token_strs"])
    assert reply["max_model_len"] == 256
    assert posted(server, "/detokenize", {"tokens": reply["tokens"]}) == (200, {"prompt": text})
    talk = {"messages": [{"role": "user", "content": "the"}], "model": "tiny"}
    _, reply = posted(server, "/tokenize", talk)
    assert "token_strs" not in reply
    expected = server.text.encode(server.text.conversation(talk["messages"]), special=False)
    assert reply["tokens"] == list(expected)
    _, described = get(server, "/tokenizer_info")
    assert (described["eos_token"], described["pad_token"]) == ("</s>", None)
    _, models = get(server, "/v1/models")
    assert models["data"][0]["max_model_len"] == described["max_model_len"] == 256


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/tokenize", {}, 400, "give a prompt or messages"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, 400, "one"),
        ("/tokenize", {"prompt": "a", "model": "b"}, 404, "'b' is not served here"),
        ("/detokenize", {"tokens": [999]}, 400, "token 999 is not in the vocabulary"),
        ("/detokenize", {"tokens": "a"}, 400, "valid list"),
    ],
)
def test_what_cannot_be_read_is_refused(
    server: Server, path: str, body: Any, status: int, said: str
) -> None:
    found, reply = posted(server, path, body)
    assert found == status
    assert said in reply["error"]["message"]


def test_the_figures_are_those_of_the_requests(server: Server) -> None:
    asked = {"model": "tiny", "prompt": "the dog", "max_tokens": 5, "ignore_eos": True}
    for stream in (False, True):
        body = json.dumps(asked | {"stream": stream, "n": 2})
        assert sent(server, "/v1/completions", "POST", body)[0] == 200
    server.rest()
    status, headers, text = sent(server, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    found = {
        (sample.name, sample.labels.get("finished_reason")): sample
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    assert {sample.labels["model_name"] for sample in found.values()} == {"tiny"}
    prompt = len(server.text.encode("the dog"))
    for name, value in {
        "vllm:request_success_total": 4,
        "vllm:generation_tokens_total": 20,
        "vllm:prompt_tokens_total": 4 * prompt,
        "vllm:time_to_first_token_seconds_count": 4,
        "vllm:e2e_request_latency_seconds_count": 4,
        "vllm:num_requests_running": 0,
        "vllm:kv_cache_usage_perc": 0,
    }.items():
        reason = "length" if name == "vllm:request_success_total" else None
        assert found[name, reason].value == value
    assert found["vllm:inter_token_latency_seconds_count", None].value <= 16
