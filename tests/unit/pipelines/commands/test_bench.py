"""`raymoe bench serve` on the command line, against our own server and others."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from moe.errors import ClusterError, ConfigError
from pipelines.commands.app import app
from pipelines.serving.limits import Limits
from tests import tiny, vocabularies
from tests.scripted import counting, refusal, scripted
from tests.serving import Server, served


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tokenizer = vocabularies.byte_level()
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "bos_token_id": 0, "eos_token_id": 1}
    model = tiny.saved(tiny.mixtral(**sizes), tmp_path_factory.mktemp("model"))
    vocabularies.save(tokenizer, model)
    with served(model, Limits(waiting=64)) as server:
        yield server


def bench(*words: object) -> Result:
    assert isinstance(app, typer.Typer)
    return CliRunner().invoke(app, ["bench", "serve", *map(str, words)], env={"COLUMNS": "100"})


def test_our_server_is_measured(server: Server, tmp_path: Path) -> None:
    kept = tmp_path / "load.json"
    words = (
        "--url",
        server.url,
        "--tokenizer",
        server.model,
        "--input-tokens",
        24,
        "--requests",
        6,
    )
    words += ("--output-tokens", 8, "--concurrency", 3, "--json", kept)
    result = bench(*words)
    assert result.exit_code == 0, result.output
    report = json.loads(kept.read_text())
    found = report["figures"]
    assert (found["requests"], found["answered"], found["failed"]) == (6, 6, 0)
    assert found["counted_by"] == "the server"
    assert found["prompt_tokens"] == 6 * 24
    assert 6 <= found["output_tokens"] <= 6 * 8
    assert [request["prompt_tokens"] for request in report["requests"]] == [24] * 6
    assert report["target"]["model"] == "tiny"
    assert "api_key" not in report["target"]
    shown = result.output
    assert "6 requests, 3 at a time" in shown
    assert "6 of 6 requests answered" in shown
    assert f"({found['output_tokens']} in all, counted by the server)" in shown
    assert f"{1e3 * found['first_token']['p50']:.1f}" in shown
    assert f"{1e3 * found['end_to_end']['p99']:.1f}" in shown
    server.rest()


def test_conversations_of_a_file_arrive_by_rate_and_some_clients_leave(
    server: Server, tmp_path: Path
) -> None:
    file, kept = tmp_path / "prompts.jsonl", tmp_path / "load.json"
    lines = [{"messages": [{"role": "user", "content": word}]} for word in ("fox", "dog", "router")]
    file.write_text("\n".join(map(json.dumps, lines)))
    words = ("--url", f"{server.url}/v1/", "--prompts", file, "--chat", "--requests", 9)
    words += ("--rate", 50, "--leave", 0.5, "--output-tokens", 3, "--seed", 2, "--json", kept)
    result = bench(*words)
    assert result.exit_code == 0, result.output
    found = json.loads(kept.read_text())["figures"]
    assert found["answered"] + found["left"] == 9
    assert found["left"] > 0
    assert "9 requests, 50 a second" in result.output
    assert "went away in mid-stream, as asked" in result.output
    server.rest()


def test_token_ids_of_no_tokenizer(server: Server) -> None:
    result = bench("--url", server.url, "--vocabulary", 300, "--input-tokens", 9, "--requests", 2)
    assert result.exit_code == 0, result.output
    assert "2 of 2 requests answered" in result.output
    server.rest()


def test_failures_are_shown_and_are_the_exit_code() -> None:
    with scripted(lambda body: refusal(429, "too many")) as server:
        result = bench("--url", server.url, "--vocabulary", 9, "--requests", 3)
    assert result.exit_code == 1
    assert "0 of 3 requests answered" in result.output
    assert '3 failed: refused with status 429: {"error":{"message":"too many"}}' in result.output


def test_the_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMOE_BENCH_API_KEY", "secret")
    with scripted(lambda body: counting(2)) as server:
        assert bench("--url", server.url, "--vocabulary", 9, "--requests", 1).exit_code == 0
    assert server.headers[0]["authorization"] == "Bearer secret"
    assert server.bodies[0]["model"] == "scripted"


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ((), ConfigError, "there is nothing to ask"),
        (("--vocabulary", 9, "--rate", 1, "--concurrency", 2), ConfigError, "give one of them"),
        (("--vocabulary", 9, "--json", "no/such/place"), ConfigError, "--json is"),
        (("--vocabulary", 9, "--chat", "--model", "m"), ConfigError, "leave --chat out"),
        (("--vocabulary", 9), ClusterError, "start the server or check --url"),
    ],
)
def test_what_cannot_be_measured(
    words: tuple[object, ...], error: type[Exception], said: str
) -> None:
    result = bench("--url", "127.0.0.1:9", *words)
    assert isinstance(result.exception, error)
    assert said in str(result.exception)
