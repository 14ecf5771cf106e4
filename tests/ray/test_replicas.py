"""Several replicas under Ray Train: the curve of one."""

import json
import os
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cluster.session import Session
from moe.checkpoint.manifest import checkpoints, load_manifest
from moe.config.run import RunConfig
from moe.errors import ClusterError, TrainingDiverged
from pipelines.training.board import stop
from pipelines.training.recording import recorded_steps
from tests import material as tiny_material
from tests.driven import driver_pids, losses, once, pids, tensors_of, trained

pytestmark = pytest.mark.ray

STEPS = 24
EVERY = 8
EVERY_STEP = {"every": 1, "keep": STEPS}
RANKS = 4


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_material.make(tmp_path_factory.mktemp("material"))


def config(material: Path, to: Path, **sections: Any) -> RunConfig:
    """Return a run of two replicas of two stages; micro-batches 4 to each."""
    two = {"train": {"global_batch": 8}, "plan": {"replicas": 2}}
    return tiny_material.run(material, to / "run", STEPS, EVERY, two, sections)


@pytest.fixture(scope="module")
def undisturbed(
    ray_session: Session, material: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunConfig:
    run = config(material, tmp_path_factory.mktemp("undisturbed"), checkpoint=EVERY_STEP)
    trained(run)
    return run


@pytest.mark.long
def test_a_run_of_two_replicas_goes_on_with_one_and_again_with_two(
    ray_session: Session, undisturbed: RunConfig, material: Path, tmp_path: Path
) -> None:
    """The first stop is a wish from elsewhere."""
    run = config(material, tmp_path)
    with pytest.raises(ClusterError, match=f"was stopped before step {STEPS}; "):
        trained(run, on_step=once(EVERY + 2, lambda: stop(run.name)))
    no_driver_is_left(ray_session)
    single = run.model_copy(update={"plan": run.plan.model_copy(update={"replicas": 1})})

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(single, resume="always", on_step=once(2 * EVERY + 2, interrupt))
    ours, theirs = (recorded_steps(each.checkpoint.path) for each in (run, undisturbed))
    for layer, found in ours[2 * EVERY - 1]["layers"].items():
        assert sum(found["load"]) == sum(theirs[2 * EVERY - 1]["layers"][layer]["load"])
    trained(run, resume="always")
    assert losses(run) == pytest.approx(losses(undisturbed), rel=1e-5)
    assert [load_manifest(path).step for path in checkpoints(run.checkpoint.path)] == [8, 16, 24]


def no_driver_is_left(session: Session) -> None:
    """Wait until the workers of Ray Train have ended."""
    deadline = time.monotonic() + 10
    while driver_pids(session) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert driver_pids(session) == []


@pytest.mark.long
def test_a_killed_driver_is_replaced_and_all_actors_stay(
    ray_session: Session, undisturbed: RunConfig, material: Path, tmp_path: Path
) -> None:
    """Every step is saved, so the blows fall between a snapshot, its write and the next step."""
    run = config(material, tmp_path, checkpoint=EVERY_STEP)
    actors: list[list[int]] = []

    def kill() -> None:
        actors.append(pids(run, RANKS))
        (driver,) = driver_pids(ray_session)
        os.kill(driver, signal.SIGKILL)

    watches = [
        once(2, kill),
        once(12, kill),
        once(STEPS - 2, lambda: actors.append(pids(run, RANKS))),
    ]
    trained(run, on_step=lambda report: [watch(report) for watch in watches])
    assert losses(run) == losses(undisturbed)
    assert actors[0] == actors[1] == actors[2]
    expected = {path.name: path for path in checkpoints(undisturbed.checkpoint.path)}
    found = checkpoints(run.checkpoint.path)
    assert found[-1].name == f"step-{STEPS:08d}"
    for path in found:
        ours, theirs = tensors_of(path), tensors_of(expected[path.name])
        assert ours.keys() == theirs.keys()
        assert all(ours[name].equal(theirs[name]) for name in theirs), path.name
        assert load_manifest(path).balance == load_manifest(expected[path.name]).balance


def test_an_error_that_no_restart_mends_ends_the_run(
    ray_session: Session, material: Path, tmp_path: Path
) -> None:
    broken = tiny_material.diverging(material, tmp_path / "broken")
    run = config(material, tmp_path, model={"path": str(broken)})
    with pytest.raises(TrainingDiverged, match="gradient norm is nan; nothing was updated"):
        trained(run)
    assert checkpoints(run.checkpoint.path) == []
    told = run_state(ray_session, run)
    assert told["status"] == "ERRORED"
    assert "gradient norm is nan; nothing was updated" in told["status_detail"]


def run_state(session: Session, run: RunConfig) -> dict[str, Any]:
    """Return what Ray Train says of the last run of this name."""
    url = f"{session.dashboard_url}/api/train/v2/runs/v1"
    with urllib.request.urlopen(url, timeout=10) as page:
        table = json.loads(page.read())
    own = [each for each in table["train_runs"] if each["name"].startswith(f"{run.name}-")]
    return dict(max(own, key=lambda each: int(each["start_time_ns"])))
