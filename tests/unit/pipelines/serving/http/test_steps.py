"""Answers from weights that change say which they came from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.serving.limits import Limits
from tests.serving import Server, sent, served


@pytest.fixture
def server(model: Path) -> Iterator[Server]:
    with served(model, Limits(request_seconds=20.0)) as running:
        yield running


def step_up(server: Server) -> None:
    """Have every batch be of a step more than the one before."""
    engine = server.engine
    engine.step = 7

    def rise() -> None:
        assert engine.step is not None
        engine.step += 1

    engine.before = rise


def test_weights_that_never_change_have_no_name(server: Server) -> None:
    raw = server.client.completions.with_raw_response.create(
        model="tiny", prompt="a b", max_tokens=2
    )
    assert "x-raymoe-step" not in raw.headers
    assert "system_fingerprint" not in json.loads(raw.text)


def test_an_answer_names_the_oldest_and_the_newest_step(server: Server) -> None:
    server.engine.step = 7
    for path, body, kind in (
        ("/v1/completions", {"prompt": "a b"}, "tiny/step-7"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, "tiny/step-7"),
        ("/v1/responses", {"input": "a", "max_output_tokens": 3}, None),
    ):
        asked = {"model": "tiny", "max_tokens": 3} | body
        if kind is None:
            del asked["max_tokens"]
        status, headers, reply = post(server, path, asked)
        assert (status, headers["x-raymoe-step"]) == (200, "7")
        assert json.loads(reply).get("system_fingerprint") == kind
    step_up(server)
    _, headers, reply = post(server, "/v1/completions", {"model": "tiny", "prompt": "a b"})
    first, last = map(int, headers["x-raymoe-step"].split("-"))
    assert first < last
    assert json.loads(reply)["system_fingerprint"] == f"tiny/step-{first}-{last}"


def test_every_event_names_its_steps(server: Server) -> None:
    step_up(server)
    options: dict[str, Any] = {"model": "tiny", "max_tokens": 6, "stream": True}
    stream = server.client.completions.create(prompt="a b", **options)
    names = [chunk.system_fingerprint for chunk in stream]
    talk: Any = [{"role": "user", "content": "a"}]
    chat = server.client.chat.completions.create(messages=talk, **options)
    names += [chunk.system_fingerprint for chunk in chat]
    steps = [[int(n) for n in str(name).removeprefix("tiny/step-").split("-")] for name in names]
    newest = [each[-1] for each in steps]
    assert newest == sorted(newest)
    assert newest[0] < newest[-1]


def post(server: Server, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    headers = {"Content-Type": "application/json"}
    return sent(server, path, "POST", json.dumps(body), headers)
