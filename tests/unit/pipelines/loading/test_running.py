"""Loads on a server that does as a script says: moments, counts, leavers, every failure."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi.responses import PlainTextResponse, Response

from pipelines.loading.answer import Answer
from pipelines.loading.figures import figures
from pipelines.loading.load import Load
from pipelines.loading.prompt import Prompt
from pipelines.loading.running import Standing, run
from pipelines.loading.target import Target
from tests.scripted import (
    DONE,
    Script,
    Scripted,
    counting,
    event,
    piece,
    refusal,
    scripted,
    told,
    usage,
)

PROMPTS = [Prompt(text="one"), Prompt(text="two"), Prompt(text="three", max_tokens=3)]


def ask(server: Scripted, load: Load, **options: Any) -> list[Answer]:
    return asyncio.run(run(Target(server.url, "m", **options), load, PROMPTS))


def test_a_closed_loop_keeps_so_many_at_once_and_takes_prompts_in_turn() -> None:
    standings: list[Standing] = []
    with scripted(lambda body: counting(4, wait=0.005)) as server:
        target = Target(server.url, "m", api_key="k", max_tokens=4)
        answers = asyncio.run(run(target, Load(7, concurrency=3), PROMPTS, standings.append))
    assert server.most_at_once == 3
    assert server.ended == 7
    asked = sorted(body["prompt"] for body in server.bodies)
    assert asked == ["one"] * 3 + ["three"] * 2 + ["two"] * 2
    assert {body["max_tokens"] for body in server.bodies if body["prompt"] == "three"} == {3}
    assert all(headers["authorization"] == "Bearer k" for headers in server.headers)
    assert [answer.output_tokens for answer in answers] == [4] * 7
    assert max(standing.running for standing in standings) == 3
    last = standings[-1]
    assert (last.ended, last.failed, last.running, last.events) == (7, 0, 0, 28)


def test_an_open_loop_does_not_wait_for_answers() -> None:
    load = Load(20, rate=400.0)
    with scripted(lambda body: counting(3, wait=0.1)) as server:
        answers = ask(server, load)
    assert [answer.due for answer in answers] == load.arrivals()
    assert all(answer.sent >= answer.due for answer in answers)
    assert server.most_at_once > 10  # one took a third of a second, all arrived in less


def test_moments_are_those_of_the_arrival_of_each_event() -> None:
    with scripted(lambda body: counting(5, wait=0.05)) as server:
        (answer,) = ask(server, Load(1, concurrency=1))
    assert answer.first_token >= 0.05
    assert len(answer.gaps) == 4
    assert all(gap > 0.03 for gap in answer.gaps)
    assert sum(answer.gaps) >= 0.19
    assert answer.whole >= answer.first_token + sum(answer.gaps)
    assert (answer.prompt_tokens, answer.output_tokens) == (5, 5)
    assert answer.text == " w0 w1 w2 w3 w4"


def test_what_is_sent() -> None:
    with scripted(lambda body: counting(1)) as server:
        ask(server, Load(1, concurrency=1), max_tokens=9, min_tokens=8, ignore_eos=True)
        ask(server, Load(1, concurrency=1), chat=True)
    first, second = server.bodies
    assert first == {
        "model": "m",
        "prompt": "one",
        "max_tokens": 9,
        "min_tokens": 8,
        "ignore_eos": True,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert "prompt" not in second
    assert second["messages"] == [{"role": "user", "content": "one"}]
    assert {"ignore_eos", "min_tokens"}.isdisjoint(second)
    assert server.paths == ["/v1/completions", "/v1/chat/completions"]


def test_clients_leave_in_mid_stream_and_are_no_failures() -> None:
    with scripted(lambda body: counting(40, wait=0.01)) as server:
        answers = ask(server, Load(6, concurrency=6, leave=1.0, seed=1), max_tokens=4)
    assert all(answer.left and answer.failure is None for answer in answers)
    assert {len(answer.tokens_at) for answer in answers} == {1, 2, 3}
    assert server.ended == 0  # the server saw each of them go
    found = figures(answers, PROMPTS)
    assert (found.left, found.answered, found.failed) == (6, 0, 0)
    assert found.first_token is not None
    assert found.end_to_end is None


def _stuck(body: dict[str, Any]) -> AsyncIterator[str]:
    return told(piece("a"), piece("b"), wait=5.0)


FAILURES: dict[str, tuple[Script, str]] = {
    "busy": (lambda body: refusal(429, "too many"), "refused with status 429"),
    "broken": (lambda body: PlainTextResponse("oops", 500), "refused with status 500"),
    "error": (
        lambda body: told(piece("a"), event({"error": {"message": "dead"}})),
        "error in the stream",
    ),
    "cut": (lambda body: told(piece("a")), "ended early"),
    "empty": (lambda body: told(DONE), "empty answer"),
    "garbled": (lambda body: told("data: {\n\n"), "unreadable event"),
    "no stream": (lambda body: Response('{"choices": []}'), "ended early"),
    "slow": (_stuck, "timeout"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_told_by_kind_and_status(name: str) -> None:
    script, kind = FAILURES[name]
    with scripted(script) as server:
        answers = ask(server, Load(2, concurrency=2), seconds=1.0)
    found = figures(answers)
    ((told_name, count, message),) = [(f.name, f.count, f.message) for f in found.faults]
    assert (told_name, count) == (kind, 2)
    assert message
    assert (found.answered, found.output_tokens, found.first_token) == (0, 0, None)


def test_an_answer_that_ends_at_once_is_an_answer_of_one_token() -> None:
    with scripted(lambda body: told(piece("", "stop"), usage(5, 1), DONE)) as server:
        (answer,) = ask(server, Load(1, concurrency=1))
    assert answer.failure is None
    assert (len(answer.tokens_at), answer.output_tokens) == (1, 1)


def test_no_server_at_all_is_a_failure_of_each_request() -> None:
    with scripted(lambda body: counting(1)) as server:
        pass
    (answer,) = ask(server, Load(1, concurrency=1))
    assert answer.failure is not None
    assert answer.failure.name == "no connection"


async def _breaking() -> AsyncIterator[str]:
    yield piece("a")
    raise RuntimeError("the server breaks on purpose")


@pytest.mark.filterwarnings("ignore")
def test_a_connection_that_breaks_is_a_failure() -> None:
    with scripted(lambda body: _breaking()) as server:
        (answer,) = ask(server, Load(1, concurrency=1))
    assert answer.failure is not None
    assert answer.failure.name == "connection broke"
    assert len(answer.tokens_at) == 1
