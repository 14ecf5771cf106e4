"""A benchmark in its smallest form, started in this process, and what it leaves behind."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch


def start(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run ``main`` of a benchmark; its table and its rows, of finite numbers, must come out."""
    kept = folder / "rows.json"
    words = [name, "--smallest", "--check", "--json", str(kept)]
    monkeypatch.setattr(sys, "argv", words)
    threads = torch.get_num_threads()
    try:
        import_module(f"benchmarks.{name}").main()
    finally:
        torch.set_num_threads(threads)
    printed = " ".join(capsys.readouterr().out.split())
    assert "(smallest form: bars are not judged)" in printed
    result = json.loads(kept.read_text(), parse_constant=_not_finite)
    assert result["rows"]
    for row in result["rows"]:
        assert str(row["what"]).split()[0] in printed
        assert any(isinstance(value, int | float) for value in row.values()), row
    assert result["missed"] == []


def _not_finite(word: str) -> float:
    raise ValueError(f"{word} stands among the rows")
