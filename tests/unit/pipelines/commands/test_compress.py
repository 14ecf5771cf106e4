"""``raymoe compress``: its table and receipt, and options without effect."""

import json
from pathlib import Path

import pytest

from moe.checkpoint.reader import Checkpoint
from pipelines.models.evaluate import EvaluateOptions, evaluate
from tests import material
from tests.shell import Shell


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return material.make(tmp_path_factory.mktemp("compressed"))


def test_the_receipt_has_the_losses_that_evaluate_finds(shell: Shell, folder: Path) -> None:
    model, data, to = folder / "model", folder / "tokens", shell.path / "small"
    words = ("--experts", 2, "--similar", "outputs", "--mix", "usage", "--data", data, "--rows", 4)
    said, _ = shell.run("compress", model, "--to", to, *words)
    receipt = json.loads((to / "receipt.json").read_text())
    for when, path in (("before", model), ("after", to)):
        loss = evaluate(path, data, EvaluateOptions(rows=4)).loss
        assert receipt["loss"][when] == pytest.approx(loss, rel=1e-5)
        assert f"{loss:.4f}" in said
    assert Checkpoint.open(to).config.experts == 2
    assert (to / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing to do"),
        (("--mix", "usage"), "--mix has no effect without --experts"),
        (("--experts", 2, "--by", "reach"), "the method merge has no by"),
        (("--experts", 2, "--method", "prune", "--mix", "usage"), "the method prune has no mix"),
        (("--experts", 2, "--method", "shrink"), "no method 'shrink'; choose prune, merge"),
        (("--experts", 2, "--rows", 3), "--rows 3 has no effect without --data"),
        (("--experts", 2, "--mix", "usage"), "is measured on text; give --data"),
        (("--experts", 2, "--data", "tokens", "--rows", 0), "asked for 0 sequences; give at least"),
    ],
)
def test_options_without_effect_are_refused(
    words: tuple[object, ...], said: str, shell: Shell, folder: Path
) -> None:
    to = shell.path / "small"
    given = [folder / "tokens" if word == "tokens" else word for word in words]
    assert said in shell.refused("compress", folder / "model", "--to", to, *given)
    assert not to.exists()
