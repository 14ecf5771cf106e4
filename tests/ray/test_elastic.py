"""Nodes come and go: replicas follow, and the loss curve does not notice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moe.config.run import load_run
from pipelines.corpus.shards import TokenShards
from pipelines.training.drive import batches
from pipelines.training.recording import recorded_steps
from tests.ray.elastic import SECONDS
from tests.reference import PlainTraining

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(SECONDS + 120)]

ROOT = Path(__file__).parents[2]


def test_replicas_follow_nodes_that_come_and_go(tmp_path: Path) -> None:
    apart = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    subprocess.run(
        [sys.executable, "-m", "tests.ray.elastic", str(tmp_path)],
        cwd=ROOT,
        env=apart | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        timeout=SECONDS + 60,
        check=True,
    )
    told = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))
    assert "failed" not in told, told["failed"]
    assert [replicas for replicas, _ in told["seen"]] == [1, 2, 1]
    assert not told["left"]
    check_curve(tmp_path, told["seen"][-1][1])


def check_curve(folder: Path, steps: int) -> None:
    """Compare the journal with one process, over as many steps as the numbers changed in."""
    run = load_run(folder / "run.toml")
    records = recorded_steps(folder / "run")[:steps]
    assert [record["step"] for record in records] == list(range(1, steps + 1))
    plain = PlainTraining(run.model.path, run)
    for record, batch in zip(
        records, batches(run, TokenShards.open(run.data.path, "train"), 0), strict=False
    ):
        plain.step(batch)
        assert record["loss"] == pytest.approx(plain.losses[-1], rel=1e-4)
