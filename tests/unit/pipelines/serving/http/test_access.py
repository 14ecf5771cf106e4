"""Who may ask, and by which id a request is known."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.serving.access import Access
from pipelines.serving.limits import Limits
from tests.serving import Server, sent, served

KEYS = ("sk-first", "sk-second")
BODY = json.dumps({"model": "tiny", "prompt": "the", "max_tokens": 1})


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with served(model, Limits(idle_seconds=0.05), Access(keys=KEYS)) as server:
        yield server


@pytest.mark.parametrize("path", ["/v1/models", "/v1/completions", "/metrics", "/tokenize", "/x"])
@pytest.mark.parametrize("header", [None, "Bearer sk-other", "Bearer ", "sk-first", "Basic x"])
def test_a_request_without_a_key_is_refused(server: Server, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    method = "POST" if path in ("/v1/completions", "/tokenize") else "GET"
    status, found, reply = sent(server, path, method, BODY, headers)
    assert status == 401
    assert found["www-authenticate"] == "Bearer"
    error = json.loads(reply)["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert "sk-" not in error["message"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_each_key_opens(
    server: Server, key: str, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": f"{scheme} {key}"}
    status, _, _ = sent(server, "/v1/completions", "POST", BODY, headers)
    assert status == 200
    assert key not in caplog.text


def test_probes_and_preflights_need_no_key(server: Server) -> None:
    assert sent(server, "/health")[0] == 200
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization"
    assert sent(server, "/v1/models", "OPTIONS", headers=asked)[0] == 200
    status, headers, _ = sent(server, "/v1/models", headers={"Origin": "https://a.example"})
    assert (status, headers["access-control-allow-origin"]) == (401, "*")
    assert KEYS[0] not in repr(Access(keys=KEYS))


def test_a_request_keeps_its_id_or_gets_one(server: Server) -> None:
    for given in ("abc-123", "req:1/2"):
        _, headers, _ = sent(server, "/health", headers={"X-Request-Id": given})
        assert headers["x-request-id"] == given
    made = {sent(server, "/health")[1]["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    for odd in ("", "x" * 129, "a b", '"'):
        _, headers, _ = sent(server, "/x", headers={"X-Request-Id": odd})
        assert headers["x-request-id"] not in (odd, *made)
