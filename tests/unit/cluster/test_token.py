"""Whether a token is shown to a cluster."""

import os
from pathlib import Path

import pytest

from cluster.token import show_token


@pytest.mark.parametrize(
    ("given", "kept", "mode"),
    [
        ({}, False, None),
        ({}, True, "token"),
        ({"RAY_AUTH_TOKEN": "secret"}, False, "token"),
        ({"RAY_AUTH_MODE": "disabled"}, True, "disabled"),
    ],
)
def test_a_token_that_is_at_hand_is_shown_unless_the_environment_says_otherwise(
    given: dict[str, str],
    kept: bool,
    mode: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    if kept:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("secret")
    show_token()
    found = os.environ.get("RAY_AUTH_MODE")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert found == mode
