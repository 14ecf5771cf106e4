"""raymoe on Kubernetes from the first command to the last, on an API server in memory.

KubeRay's part is played (``tests.kube``); the pods are processes with addresses and mounts of their
own, in which Ray, its autoscaler and raymoe are the real ones.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster.journal import read
from moe.config.run import parse_run
from pipelines.corpus.shards import TokenShards
from pipelines.training.batches import batches
from pipelines.training.recording import JOURNAL, recorded_steps
from tests import material
from tests.kube import machine, trained
from tests.kube.story import ROOT, SECONDS
from tests.reference import PlainTraining

pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.timeout(SECONDS + 120),
    pytest.mark.skipif(bool(why := machine.lacking()), reason=why),
]


def told(module: str, folder: Path) -> dict[str, Any]:
    """Play a story; return what was seen in it."""
    (folder / "data").mkdir()
    material.make(folder / "data")
    apart = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        machine.words(module, str(folder)),
        cwd=ROOT,
        env=apart | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS + 60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-20000:]
    seen: dict[str, Any] = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    return seen


def test_a_rayjob_is_scaled_from_nothing_loses_a_pod_finishes_and_is_deleted(
    tmp_path: Path,
) -> None:
    seen, run = told("tests.kube.trained", tmp_path), tmp_path / "data" / "run"
    assert seen["applied"][-1] == "RayJob/tiny: made"
    assert (seen["before"], seen["most"]) == (0, 2)
    assert "not scheduled: 0/1 nodes are available" in " ".join(seen["status"].split())
    before, after = seen["pods"]
    assert len(after) == 2
    assert len({*before} & {*after}) == 1
    ended = seen["ended"]
    assert (ended["jobDeploymentStatus"], ended["jobStatus"]) == ("Complete", "SUCCEEDED"), seen
    assert "finished" in seen["watched"]
    assert seen["deleted"] == ["RayJob/tiny: its pods are ending", "RayJob/tiny: deleted"]
    assert seen["left"] == []
    events = [each for each in read(run / JOURNAL) if "event" in each]
    assert [each["event"] for each in events if each["event"] in ("began", "lost", "mended")] == [
        "began",
        "lost",
        "mended",
    ], events
    (mended,) = (each for each in events if each["event"] == "mended")
    assert mended["lost_step"] - mended["boundary"] <= 2 * trained.COPY_EVERY, mended
    check_curve(tmp_path, mended["lost_step"] + 10)


def check_curve(folder: Path, steps: int) -> None:
    """Compare so many steps of the journal with one process that nothing happened to."""
    table = material.run_table(folder / "data", folder / "data" / "run", trained.STEPS)
    run = parse_run(table | {"name": trained.NAME}, "test")
    records = recorded_steps(run.checkpoint.path)
    assert [record["step"] for record in records] == list(range(1, trained.STEPS + 1))
    plain = PlainTraining(run.model.path, run)
    shards = TokenShards.open(run.data.path, "train")
    for record, batch in zip(records[:steps], batches(run, shards, 0), strict=False):
        plain.step(batch)
        assert record["loss"] == pytest.approx(plain.losses[-1], rel=1e-4)


def test_a_rayservice_whose_ranks_come_late_answers_and_is_changed_while_it_answers(
    tmp_path: Path,
) -> None:
    seen = told("tests.kube.served", tmp_path)
    assert seen["applied"][-1] == "RayService/tiny: made"
    assert "ready" in seen["status"]
    assert "a new cluster starts beside the old one" in seen["changed"][-1]
    assert len({*seen["clusters"]}) == 2
    assert len(seen["pods"]) >= 2
    assert seen["failures"] == []
    assert seen["answers"] == [seen["first"]]
    assert seen["deleted"] == ["RayService/tiny: its pods are ending", "RayService/tiny: deleted"]
    assert seen["left"] == []
