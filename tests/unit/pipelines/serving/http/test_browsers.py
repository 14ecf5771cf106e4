"""What browsers and load balancers ask beside the API: preflights, origins, HEAD."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.serving.access import Access
from pipelines.serving.limits import Limits
from tests.serving import Server, sent, served

ORIGIN = "https://chat.example"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, x-stainless-lang",
}


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with served(model, Limits(idle_seconds=0.05)) as server:
        yield server


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/models"])
def test_a_browser_may_ask_before_it_sends(server: Server, path: str) -> None:
    status, headers, _ = sent(server, path, "OPTIONS", headers=PREFLIGHT)
    assert status == 200
    assert headers["access-control-allow-origin"] == "*"
    assert "POST" in headers["access-control-allow-methods"]
    assert "x-stainless-lang" in headers["access-control-allow-headers"]


@pytest.mark.parametrize(("name", "status"), [("tiny", 200), ("other", 404)])
def test_a_page_reads_answers_and_errors(server: Server, name: str, status: int) -> None:
    body = json.dumps({"model": name, "prompt": "the", "max_tokens": 1})
    found, headers, _ = sent(server, "/v1/completions", "POST", body, {"Origin": ORIGIN})
    assert found == status
    assert headers["access-control-allow-origin"] == "*"
    assert "Retry-After" in headers["access-control-expose-headers"]


def test_other_pages_are_kept_out_where_origins_are_named(model: Path) -> None:
    with served(model, Limits(idle_seconds=0.05), Access((ORIGIN,))) as server:
        status, headers, _ = sent(server, "/health", headers={"Origin": ORIGIN})
        assert (status, headers["access-control-allow-origin"]) == (200, ORIGIN)
        other = PREFLIGHT | {"Origin": "https://other.example"}
        status, headers, _ = sent(server, "/v1/models", "OPTIONS", headers=other)
        assert status == 400
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    ("path", "status"), [("/health", 200), ("/v1/models", 200), ("/v1/models/other", 404)]
)
def test_head_is_get_without_a_body(server: Server, path: str, status: int) -> None:
    found, headers, body = sent(server, path, "HEAD")
    _, of_get, whole = sent(server, path)
    assert (found, body) == (status, b"")
    assert headers["content-length"] == of_get["content-length"] == str(len(whole))
