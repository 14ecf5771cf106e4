"""A real run and its pods grow and shrink together, asked from outside of the cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.long]

ROOT = Path(__file__).parents[2]


def test_a_run_and_its_pods_grow_and_shrink_together(tmp_path: Path) -> None:
    apart = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.ray.scaled", str(tmp_path)],
        cwd=ROOT,
        env=apart | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))
    assert "was stopped before step" in told["ended"], told
    assert told["seen"] == [[2, ["p1", "p2"]], [2, ["p1", "p2"]], [1, ["p1"]]]
    assert told["lines"] == [
        "enlarge: cpu-0 to 2 pods",
        "waiting: 1 of 2 pods of cpu-0 run",
        "asking the run for --replicas 2",
        "done: replicas 2, pods with ranks 2",
        "done: replicas 2, pods with ranks 2",
        "asking the run for --replicas 1",
        "reduce: cpu-0 to 1 pods",
        "waiting: pods without ranks end, of cpu-0",
        "done: replicas 1, pods with ranks 1",
    ]
