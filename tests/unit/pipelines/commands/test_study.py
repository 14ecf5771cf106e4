"""Every study, conducted in small: it ends with claims, figures and verdicts."""

import json
from pathlib import Path
from typing import Any

import pytest

from moe.errors import ConfigError
from pipelines.study.catalogue import STUDIES, asked_of, study_named
from tests.shell import Shell

TOKENS = 2048


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for number in range(60):
        words = " ".join(f"the {n} of {n * number} is {n % 7}" for n in range(120))
        (folder / f"{number}.txt").write_text(words)
    return folder


def conducted(shell: Shell, text: Path, to: Path, name: str, *more: object) -> dict[str, Any]:
    shell.run("study", name, "--to", to, "--text", text, "--threads", 1, *more)
    found: dict[str, Any] = json.loads((to / f"{name}.json").read_text())
    return found


def test_published_figures_come_out_but_two(shell: Shell, text: Path, tmp_path: Path) -> None:
    found = conducted(shell, text, tmp_path, "published")
    wrong = [each["says"] for each in found["claims"] if each["verdict"] != "holds"]
    assert wrong == ["The sizes give the printed parameters", "That is 38 % of the peak"]
    figures = found["claims"][0]
    assert (figures["ours"], figures["why"]) == (
        "11 of 12 figures within 6%",
        "not: deepseek-moe-142b, active",
    )


def test_a_study_is_not_run_twice(shell: Shell, text: Path, tmp_path: Path) -> None:
    asked = ("--tokens", TOKENS, "--seeds", 1)
    first = conducted(shell, text, tmp_path, "methods", *asked)
    arms = {path: path.stat().st_mtime_ns for path in tmp_path.glob("arms/*/record.json")}
    assert len(arms) == 5
    assert conducted(shell, text, tmp_path, "methods", *asked) == first
    assert {path: path.stat().st_mtime_ns for path in arms} == arms


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in STUDIES if name not in ("published", "methods")])
def test_every_study_ends(shell: Shell, text: Path, tmp_path: Path, name: str) -> None:
    asked = ("--tokens", 2 * TOKENS, "--seeds", 2) if STUDIES[name].tokens else ()
    found = conducted(shell, text, tmp_path, name, *asked)
    assert found["claims"]
    assert all(each["verdict"] and each["ours"] for each in found["claims"])


def test_what_has_no_effect_is_refused() -> None:
    with pytest.raises(ConfigError, match="no study 'gate'; choose gates, coefficients"):
        study_named("gate")
    with pytest.raises(ConfigError, match="published trains nothing: --tokens and --seeds"):
        asked_of(STUDIES["published"], None, 3)
