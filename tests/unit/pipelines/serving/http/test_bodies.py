"""Bodies as clients send them: under any Content-Type, of any size, JSON or not."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.serving.limits import LEAST_BODY_BYTES, Limits
from tests.serving import Server, sent, served

GOOD = {"model": "tiny", "prompt": "the", "max_tokens": 2}
LARGE = 30 * 2**20


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with served(model, Limits(idle_seconds=0.05)) as server:
        yield server


def completion(server: Server, body: object, **headers: str) -> tuple[int, str]:
    """Return the status of a completion and the message of its error, if it is one."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    status, _, reply = sent(server, "/v1/completions", "POST", body, named)
    error = json.loads(reply).get("error")
    assert error is None or error.keys() == {"message", "type", "param", "code"}
    return status, error["message"] if error else ""


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "application/json; charset=utf-8",
        "application/x-www-form-urlencoded",
        "text/plain",
        "multipart/form-data; boundary=x",
        "nonsense",
    ],
)
def test_json_is_read_under_any_content_type(server: Server, kind: str | None) -> None:
    headers = {} if kind is None else {"Content_Type": kind}
    assert completion(server, json.dumps(GOOD).encode(), **headers) == (200, "")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is missing or null; send a JSON object"),
        (b"null", "the body is missing or null; send a JSON object"),
        (b"{", "the body is not JSON: Expecting property name enclosed in double quotes; send"),
        (b"model=tiny&prompt=the", "the body is not JSON: Expecting value; send a JSON object"),
        (b"[1, 2]", "the body is [1, 2]; send a JSON object"),
        (b'"the"', "the body is 'the'; send a JSON object"),
        (b"7", "the body is 7; send a JSON object"),
        (b'{"model": "\xff"}', "the body is not UTF-8 text: byte 11 of it"),
        (b"\x1f\x8b\x08\x00", "the body is not UTF-8 text: byte 1 of it"),
        (b"[" * 100_000, "the body is nested too deep"),
        (b'{"max_tokens": 1' + b"0" * 5000 + b"}", "the body has a number with too many digits"),
        (b'{"model": "tiny", "prompt": "a", "temperature": 1e400}', "temperature: .* found inf"),
        (b'{"model": "tiny", "prompt": "a", "temperature": NaN}', "temperature: .* found nan"),
        (b'{"model": "tiny", "prompt": "a", "max_tokens": 1e400}', "max_tokens: .* found inf"),
        (b'{"model": "tiny", "prompt": [1e99]}', "prompt: expected a text"),
        (b'{"model": "tiny", "prompt": null}', "prompt is missing"),
        (b'{"model": "tiny", "prompt": [1' + b"0" * 99 + b"]}", "token 10+ is not in the vocabul"),
    ],
)
def test_what_is_no_request_is_refused_in_words(server: Server, body: bytes, words: str) -> None:
    status, said = completion(server, body)
    assert status == 400
    assert words in said or re.search(words, said)


def test_a_body_that_is_too_large_is_refused_before_it_is_read_as_text(server: Server) -> None:
    body = json.dumps(GOOD | {"prompt": "the dog " * (LARGE // 8)}).encode()
    started = time.monotonic()
    status, said = completion(server, body)
    assert status == 413
    assert f"the body has {len(body)} bytes but this server reads at most" in said
    chunks = (body[at : at + 2**20] for at in range(0, len(body), 2**20))
    status, said = completion(server, chunks)
    assert status == 413
    assert time.monotonic() - started < 30
    assert completion(server, json.dumps(GOOD)) == (200, "")


def test_a_prompt_longer_than_the_context_is_refused_without_its_tokens(server: Server) -> None:
    prompt = "the dog " * (LEAST_BODY_BYTES // 16)
    status, said = completion(server, json.dumps(GOOD | {"prompt": prompt}))
    assert status == 400
    assert f"the prompt of {len(prompt)} characters takes" in said


def test_requests_are_answered_while_a_large_body_arrives(server: Server) -> None:
    """Half of a body is sent and the rest held back; others do not wait for it."""
    body = json.dumps(GOOD | {"prompt": "the dog " * 10_000}).encode()

    def slowly() -> Iterator[bytes]:
        yield body[: len(body) // 2]
        assert completion(server, json.dumps(GOOD)) == (200, "")
        yield body[len(body) // 2 :]

    status, _ = completion(server, slowly())
    assert status == 400
