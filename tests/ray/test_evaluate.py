"""``raymoe evaluate`` on Ray actors."""

import json
import sys
from pathlib import Path

import pytest

from actors.crew import ending
from cluster.session import Session
from moe.checkpoint.reader import Checkpoint
from moe.planning.plan.file import save_plan
from pipelines.cli import main
from pipelines.models.evaluate import EvaluateOptions, evaluate
from tests import material, runs

pytestmark = pytest.mark.ray


def test_the_actors_of_a_plan_measure_what_one_process_does(
    ray_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = material.make(tmp_path)
    model, data = folder / "model", folder / "tokens"
    save_plan(
        runs.plan(Checkpoint.open(model).config, (1, 2), (2, 1), (3, 1)), folder / "plan.toml"
    )
    words = ["evaluate", model, "--data", data, "--rows", 4, "--plan", folder / "plan.toml"]
    words += ["--json", folder / "found.json"]
    monkeypatch.setattr(sys, "argv", ["raymoe", *map(str, words)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert not exit_.value.code
    found = json.loads((folder / "found.json").read_text())["text"]
    expected = evaluate(model, data, EvaluateOptions(rows=4))
    assert found["tokens"] == expected.tokens
    assert found["loss"] == pytest.approx(expected.loss, rel=1e-5)
    for number, layer in expected.layers.items():
        theirs = found["layers"][str(number)]
        assert theirs["load"] == pytest.approx(layer.load)
        assert theirs["drop_rate"] == pytest.approx(layer.drop_rate)
        assert theirs["sharpness"] == pytest.approx(layer.sharpness, rel=1e-4)
    assert not ending.running("serve-evaluate")
