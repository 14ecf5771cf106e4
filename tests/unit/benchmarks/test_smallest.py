"""Every benchmark that needs no Ray runs in its smallest form."""

from pathlib import Path

import pytest

from benchmarks import every
from tests import benches


@pytest.mark.parametrize("name", [name for name in every.names() if not every.starts_ray(name)])
def test_benchmark_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benches.start(name, tmp_path, monkeypatch, capsys)
