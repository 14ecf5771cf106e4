from dataclasses import replace

import pytest

from cluster.jobs import JobRequest, _Lines, submit
from moe.errors import ClusterError

REQUEST = JobRequest("demo", "true", None, {"run": "demo"}, {"A": "1"})


def test_the_same_request_has_the_same_identifier_and_any_change_another() -> None:
    same = replace(REQUEST, metadata={"run": "demo"})
    assert same.identifier == REQUEST.identifier
    assert REQUEST.identifier.startswith("raymoe-demo-")
    others = [replace(REQUEST, entrypoint="false"), replace(REQUEST, environment={"A": "2"})]
    assert len({REQUEST.identifier, *(other.identifier for other in others)}) == 3


def test_chunks_are_cut_into_lines() -> None:
    seen: list[str] = []
    lines = _Lines(seen.append)
    for chunk in ("a", "b\nc", "\n\nd"):
        lines.feed(chunk)
    lines.finish()
    lines.finish()
    assert seen == ["ab", "c", "", "d"]


def test_a_log_that_starts_again_repeats_no_line() -> None:
    seen: list[str] = []
    lines = _Lines(seen.append)
    lines.feed("one\ntw")
    lines.restart()
    for chunk in ("on", "e\n", "two\nthree\n"):
        lines.feed(chunk)
    assert seen == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("local", "jobs go to a running cluster"),
        ("http://127.0.0.1:1", "nothing answers at http://127.0.0.1:1"),
    ],
)
def test_an_address_that_takes_no_jobs_is_refused(
    address: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises(ClusterError, match=words):
        submit(address, REQUEST)


def test_an_environment_that_would_win_in_silence_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ClusterError, match=r"RAY_ADDRESS is set to 10\.0\.0\.1:6379"):
        submit("http://10.0.0.2:8265", REQUEST)
