"""The options that all benchmarks share, the small material, the judgement of bars."""

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

from benchmarks.results import finish, options, parse
from moe.checkpoint.reader import Checkpoint
from pipelines.corpus.shards import TokenShards

ROWS = [{"what": "one", "seconds": 0.123456}]


def parser() -> ArgumentParser:
    made = options("a benchmark")
    made.add_argument("--steps", type=int, default=9)
    return made


def parsed(monkeypatch: pytest.MonkeyPatch, *words: str) -> Namespace:
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    return parse(parser(), steps=1)


def test_smallest_makes_the_demo_in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = parsed(monkeypatch, "--smallest")
    assert arguments.steps == 1
    assert Checkpoint.open(arguments.model).config.family == "skywork_moe"
    assert Checkpoint.open(arguments.model.parent / "dense").config.family == "llama"
    assert len(TokenShards.open(arguments.data, "held_out")) > 0


def test_what_is_given_stands_under_smallest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = parsed(monkeypatch, "--smallest", "--steps", "3", "--model", str(tmp_path))
    assert (arguments.steps, arguments.model) == (3, tmp_path)


def test_missing_material_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        parsed(monkeypatch)
    assert exit_.value.code == 2
    assert "demo/moe is missing; `make demo` makes it" in capsys.readouterr().err


def test_a_missed_bar_fails_under_check(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = Namespace(smallest=False, check=True, json=tmp_path / "rows.json")
    with pytest.raises(SystemExit) as exit_:
        finish(arguments, "title", ROWS, ["too slow"], digits=3)
    assert exit_.value.code == 1
    printed = capsys.readouterr().out
    assert "0.123" in printed
    assert "0.1234" not in printed
    assert "missed: too slow" in printed
    assert json.loads(arguments.json.read_text()) == {"rows": ROWS, "missed": ["too slow"]}


def test_smallest_judges_no_bar(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = Namespace(smallest=True, check=True, json=tmp_path / "rows.json")
    finish(arguments, "title", ROWS, ["too slow"])
    assert "missed" not in capsys.readouterr().out
    assert json.loads(arguments.json.read_text())["missed"] == []
