"""What tests of the commands share."""

from pathlib import Path

import pytest

from tests.shell import Shell


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """A directory to type commands in."""
    return Shell(tmp_path, monkeypatch, capsys)
