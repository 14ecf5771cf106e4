"""``raymoe evaluate --ablate``: a table over settings, and what it refuses."""

from pathlib import Path

import pytest

from tests import material
from tests.shell import Shell


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return material.make(tmp_path_factory.mktemp("evaluated"))


def test_one_run_measures_every_setting(shell: Shell, folder: Path) -> None:
    words = ("evaluate", folder / "model", "--data", folder / "tokens", "--rows", 2)
    said, _ = shell.run(*words, "--ablate", "mask=1/4", "--ablate", "top-k=1", "--per-layer")
    assert said.count("mask=1/4") == said.count("top-k=1") == 1 + 3
    plain, _ = shell.run(*words)
    loss = plain.partition("loss ")[2].split()[0]
    assert f"the model as it is │ │ {loss}" in said
    assert "mask" not in plain


def test_ablations_without_effect_are_refused(shell: Shell, folder: Path) -> None:
    words = ("evaluate", folder / "model", "--data", folder / "tokens")
    assert "--per-layer has no effect" in shell.refused(*words, "--per-layer")
    assert "no shared expert" in shell.refused(*words, "--ablate", "no-shared")
    assert "no ablation 'all'" in shell.refused(*words, "--ablate", "all")
