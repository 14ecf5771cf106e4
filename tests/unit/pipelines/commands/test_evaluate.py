"""``raymoe evaluate``: its tables and its file, and what it refuses."""

import json
from importlib.util import find_spec
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


def test_figures_go_to_a_file(shell: Shell, folder: Path) -> None:
    words = ("evaluate", folder / "model", "--data", folder / "tokens", "--rows", 3)
    out = folder / "figures.json"
    said, _ = shell.run(*words, "--window", 8, "--json", out)
    found = json.loads(out.read_text())["text"]
    assert f"loss {found['loss']:.4f} nats/token" in said
    assert f"{found['bits_per_byte']:.4f} bits/byte over {found['bytes']} bytes" in said
    assert "as transformers' script weighs windows" in said
    assert found["domains"].keys() == {"text"}


def test_options_without_effect_are_refused(shell: Shell, folder: Path) -> None:
    model = ("evaluate", folder / "model")
    data = ("--data", folder / "tokens")
    assert "give --data, --tasks or both" in shell.refused(*model)
    assert "--stride has no effect without --window" in shell.refused(*model, *data, "--stride", 2)
    assert "--limit has no effect without --tasks" in shell.refused(*model, *data, "--limit", 2)
    assert "--address has no effect without --plan" in shell.refused(
        *model, *data, "--address", "auto"
    )
    assert "--ablate is measured by one process" in shell.refused(
        *model, *data, "--ablate", "top-k=1", "--plan", folder / "plan.toml"
    )


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="the harness is installed")
def test_without_the_harness_tasks_name_the_extra(shell: Shell, folder: Path) -> None:
    said = shell.refused("evaluate", folder / "model", "--tasks", "hellaswag")
    assert "install raymoe[eval]" in said
