"""``raymoe tokenize``: what it says of rows, and options that do not go together."""

import sys
from pathlib import Path

import pytest

from pipelines.cli import main
from tests import chats


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenize")
    chats.directory(folder / "model")
    rows = [{"prompt": f"say {n}", "completion": "the dog"} for n in range(20)]
    chats.write(folder / "rows.jsonl", [*rows, {"prompt": "", "completion": ""}])
    return folder


def run(monkeypatch: pytest.MonkeyPatch, material: Path, *words: object) -> int:
    given = ["tokenize", material / "rows.jsonl", "--model", material / "model", *words]
    monkeypatch.setattr(sys, "argv", ["raymoe", *map(str, given)])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def test_rows_are_accounted_for(
    material: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    to = tmp_path / "tokens"
    words = ("--to", to, "--kind", "instruction", "--template", "deepseek", "--sequence-length", 96)
    assert run(monkeypatch, material, *words) == 0
    said = capsys.readouterr().out
    assert "chat template: deepseek; answers are known by the marks of the template" in said
    assert "21 rows read, 20 kept; of these 0 truncated, by 0 tokens" in said
    assert f"left out: 1 an answer is empty (first {material / 'rows.jsonl'}:21)" in said
    assert "train: 19 documents, " in said
    assert " tokens count (" in said
    assert "% padding" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kind", "talk"), "--kind is 'talk'; choose one of text, chat, instruction, preference"),
        (("--packing", "loose"), "--packing is 'loose'; choose one of cut, packed, padded"),
        (("--kind", "chat", "--answers", "first"), "--answers is 'first'; choose one of all, last"),
        (("--truncate", "left"), "--truncate has no effect on documents that are cut"),
        (("--answers", "last"), "--answers has no effect on text; remove it, or give --kind"),
        (("--strict",), "--strict has no effect on text"),
        (("--kind", "chat", "--packing", "cut"), "rows of --kind chat stay whole"),
        (
            ("--kind", "instruction", "--shape", "messages"),
            "no shape of --kind instruction; ",
        ),
        (("--kind", "preference"), "those of prompt-completion rows, which --kind preference does"),
        (("--kind", "chat", "--template", "nowhere"), "--template nowhere is no file that can be"),
        (("--kind", "chat", "--strict"), "rows.jsonl:21: an answer is empty; correct the row, or"),
    ],
)
def test_options_that_do_not_go_together(
    words: tuple[str, ...],
    said: str,
    material: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, material, "--to", tmp_path / "tokens", *words) == 1
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "tokens").exists()
