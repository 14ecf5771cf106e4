"""`raymoe presets` and `raymoe init` on the command line."""

import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from moe.checkpoint.reader import Checkpoint
from moe.config.presets import PRESETS
from pipelines.cli import main
from pipelines.screen.preset_table import preset_table


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Return the exit code of the command."""
    monkeypatch.setattr(sys, "argv", ["raymoe", *map(str, words)])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def test_every_preset_has_one_line_of_80_columns() -> None:
    console = Console(width=80, file=StringIO(), color_system=None)
    console.print(preset_table())
    assert isinstance(console.file, StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    rows = {line.split()[0]: line.split()[1:5] for line in lines if line.split()}
    assert [name for name in rows if name in PRESETS] == list(PRESETS)
    assert rows["deepseek-moe-16b"] == ["16.38", "2.83", "28", "2048"]
    assert all(any(line.endswith(preset.about) for line in lines) for preset in PRESETS.values())


def test_a_model_is_made_from_a_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = "vocab_size=97 hidden_size=16 layers=2 heads=2 kv_heads=2 head_size=8 ffn_size=12"
    words = [
        part for size in f"{sizes} expert_size=4 shared_size=8".split() for part in ("--set", size)
    ]
    to = tmp_path / "m"
    assert run(monkeypatch, "init", "deepseek-moe-16b", "--to", to, "--seed", 1, *words) == 0
    assert f"wrote {to}" in capsys.readouterr().out.replace("\n", "")
    config = Checkpoint.open(to).config
    assert (config.family, config.layers, config.experts, config.shared_size) == (
        "deepseek",
        2,
        64,
        8,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dens"], "no preset named dens; did you mean dense?"),
        (["dense", "--set", "layer=2"], "unknown key layer; did you mean layers?"),
        (["dense", "--dtype", "int8"], "no type 'int8'; choose float32 or bfloat16"),
    ],
)
def test_what_is_not_there_is_refused(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "init", *words, "--to", tmp_path / "m") == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
