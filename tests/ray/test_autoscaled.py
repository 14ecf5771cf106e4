"""A run asks Ray's autoscaler for nodes, trains on them, and lets them go: 0, N, 0."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.training.recording import recorded_steps

pytestmark = [pytest.mark.ray, pytest.mark.long]

ROOT = Path(__file__).parents[2]


def test_a_run_has_its_nodes_started_and_they_go_when_it_has_ended(tmp_path: Path) -> None:
    apart = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.ray.autoscaled", str(tmp_path)],
        cwd=ROOT,
        env=apart | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    lines = (tmp_path / "lines.txt").read_text(encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:] + lines
    told = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))
    assert (told["before"], told["most"], told["after"]) == (0, 2, 0), lines
    assert (told["code"], told["left"]) == (0, False), lines
    assert "waiting for room, at most 110 s: rank 0 (replica 0, stage 0) asks for" in lines, lines
    assert len(recorded_steps(tmp_path / "run")) == 3
