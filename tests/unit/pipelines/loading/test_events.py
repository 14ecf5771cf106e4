"""Events of the servers there are: what counts as a token, and what is refused."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from pipelines.loading.events import BadEvent, Event, data_of, parse_event


async def _lines(lines: Sequence[bytes]) -> AsyncIterator[bytes]:
    for line in lines:
        yield line


async def _gathered(lines: Sequence[bytes]) -> list[str]:
    return [data async for data in data_of(_lines(lines))]


def test_data_is_read_as_the_standard_says() -> None:
    lines = [
        b": a comment\n",
        b"\n",
        b"event: message\n",
        b"data: one\r\n",
        b"\r\n",
        b"data:two\n",
        b"data: lines\n",
        b"\n",
        "data: é\n".encode(),
    ]
    assert asyncio.run(_gathered(lines)) == ["one", "two\nlines", "é"]


def completion(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"text": text, "finish_reason": finish}], **more}


def chat(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"delta": delta, "finish_reason": finish}]}


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


@pytest.mark.parametrize(
    ("table", "found"),
    [
        (completion("a"), Event(True, "a")),
        (completion(""), Event(True)),  # a token that is part of a character
        (completion("a", "length"), Event(True, "a", True)),
        (completion("", "stop"), Event(finished=True)),
        (completion("a", usage=USAGE), Event(True, "a", counted=(3, 2))),
        (completion("a", usage=None), Event(True, "a")),
        ({"choices": [], "usage": USAGE}, Event(counted=(3, 2))),
        (chat(role="assistant", content=""), Event()),
        (chat(role="assistant", content=None), Event()),
        (chat(role="assistant", content="a"), Event(True, "a")),
        (chat(content="a"), Event(True, "a")),
        (chat(content=""), Event(True)),
        (chat("stop"), Event(finished=True)),
        (chat(reasoning_content="so"), Event(True, "so")),
        (chat(tool_calls=[{"function": {"arguments": "{"}}]), Event(True, "{")),
        ({"error": {"message": "no", "code": 1}}, Event(error="no")),
        ({"error": "no"}, Event(error="no")),
    ],
)
def test_what_an_event_says(table: dict[str, Any], found: Event) -> None:
    assert parse_event(json.dumps(table)) == found


def test_the_end() -> None:
    assert parse_event("[DONE]") == Event(done=True)


@pytest.mark.parametrize("data", ["{", "[]", "1", '{"choices": 1}', '{"choices": [1]}', "{}"])
def test_what_is_no_event(data: str) -> None:
    with pytest.raises(BadEvent):
        parse_event(data)
