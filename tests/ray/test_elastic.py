"""Nodes come and go under a run: its ranks follow, and the loss curve does not notice."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moe.config.run import load_run
from pipelines.corpus.shards import TokenShards
from pipelines.training.batches import batches
from pipelines.training.recording import recorded_steps
from tests.ray.elastic import NOTICE_SECONDS, SECONDS
from tests.reference import PlainTraining

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(SECONDS + 120)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the run, after all has happened."""
    path = tmp_path_factory.mktemp("elastic")
    apart = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    subprocess.run(
        [sys.executable, "-m", "tests.ray.elastic", str(path)],
        cwd=ROOT,
        env=apart | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        timeout=SECONDS + 60,
        check=True,
    )
    return path


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Any]:
    """What was seen."""
    seen: dict[str, Any] = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    lines = (folder / "lines.txt").read_text(encoding="utf-8")
    assert "failed" not in seen, f"{seen['failed']}\n{seen['events']}\n{lines}"
    return seen


def first_replica(ranks: dict[str, Any]) -> list[Any]:
    """Return process and node of each rank of the first replica."""
    return list(ranks.values())[:2]


def test_replicas_grow_in_place_when_a_node_joins(told: dict[str, Any]) -> None:
    assert (len(told["began"]), len(told["grown"])) == (2, 4)
    assert first_replica(told["grown"]) == first_replica(told["began"])
    assert [node for _, node in told["grown"].values()][2:] == [told["pod"]] * 2


def test_the_driver_is_on_the_node_that_is_for_drivers(told: dict[str, Any]) -> None:
    assert told["drivers"] == [told["for drivers"]]


def test_ranks_leave_a_pod_that_gets_sigterm_and_no_step_is_lost(told: dict[str, Any]) -> None:
    assert NOTICE_SECONDS - 2 < told["notice"] <= NOTICE_SECONDS
    assert told["noticed"] < 2
    assert told["pod_seconds"] < NOTICE_SECONDS
    assert first_replica(told["moved"]) == first_replica(told["began"])
    assert [node for _, node in told["moved"].values()][2:] == [told["spare"]] * 2
    resized = [each for each in told["events"] if each["event"] == "resized"]
    assert [(each["kept"], each["started"], each["ended"]) for each in resized] == [
        (2, 2, 0),
        (2, 2, 2),
    ]
    assert not [each for each in told["events"] if each["event"] in ("lost", "mended")]


def test_a_killed_node_leaves_a_smaller_run_and_nothing_behind(
    told: dict[str, Any], folder: Path
) -> None:
    assert [*told["shrunk"].values()] == first_replica(told["began"])
    assert not told["left"]
    run, steps = load_run(folder / "run.toml"), told["steps"]
    records = recorded_steps(folder / "run")[:steps]
    assert [record["step"] for record in records] == list(range(1, steps + 1))
    plain = PlainTraining(run.model.path, run)
    for record, batch in zip(
        records, batches(run, TokenShards.open(run.data.path, "train"), 0), strict=False
    ):
        plain.step(batch)
        assert record["loss"] == pytest.approx(plain.losses[-1], rel=1e-5)
