"""``raymoe inspect``: its table, its file, its page, and what it refuses."""

import json
from pathlib import Path

import pytest

from tests import material, mixtures
from tests.shell import Shell


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return material.make(tmp_path_factory.mktemp("inspected"))


def test_the_file_has_every_figure_and_the_page_every_map(shell: Shell, folder: Path) -> None:
    kept, page = shell.path / "found.json", shell.path / "found.html"
    said, _ = shell.run(
        "inspect",
        folder / "model",
        "--data",
        folder / "tokens",
        "--rows",
        3,
        "--json",
        kept,
        "--html",
        page,
    )
    assert "48 tokens" in said
    found = json.loads(kept.read_text())
    assert found["tokens"] == 48
    assert sorted(found["layers"]) == ["0", "1", "2"]
    layer = found["layers"]["1"]
    assert sum(layer["load"]) == pytest.approx(1.0)
    assert len(layer["cosine"]) == len(layer["cka"]) == len(layer["together"]) == 4
    assert f"{layer['similarity']:.4f}" in said
    drawn = page.read_text()
    assert drawn.count("<svg") == 1 + 3 * 3
    assert "http" not in drawn.replace("http-equiv", "")
    assert "expert 3" in drawn


def test_weights_alone_need_no_text(shell: Shell, tmp_path: Path) -> None:
    model = mixtures.made("deepseek", tmp_path / "model")
    page = shell.path / "page.html"
    said, _ = shell.run("inspect", model, "--html", page)
    assert "mean cosine" in said
    assert page.read_text().count("<svg") == 2


def test_an_option_without_effect_is_refused(shell: Shell, folder: Path) -> None:
    assert "--data" in shell.refused("inspect", folder / "model", "--rows", 3)
    words = ("--data", folder / "tokens", "--rows", 0)
    assert "asked for 0 sequences" in shell.refused("inspect", folder / "model", *words)
    assert "--json" in shell.refused("inspect", folder / "model", "--json", "no/such/file")
