"""Several replicas under Ray Train, each with a driver of its own: the curve of one."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from actors.commands import StepReport
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


def test_two_replicas_make_the_curve_of_one(
    undisturbed: RunConfig, material: Path, tmp_path: Path
) -> None:
    run = config(material, tmp_path, plan={"replicas": 1})
    trained(run)
    assert losses(undisturbed) == pytest.approx(losses(run), rel=1e-5)
    records = [recorded_steps(each.checkpoint.path)[-1] for each in (run, undisturbed)]
    for layer, found in records[1]["layers"].items():
        assert sum(found["load"]) == sum(records[0]["layers"][layer]["load"])
    saved = checkpoints(run.checkpoint.path)
    assert [load_manifest(path).step for path in saved] == [8, 16, 24]


def test_a_checkpoint_of_two_replicas_is_resumed_by_one_and_the_other_way(
    undisturbed: RunConfig, material: Path, tmp_path: Path
) -> None:
    run = config(material, tmp_path)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(run, on_step=once(EVERY + 2, interrupt))
    single = run.model_copy(update={"plan": run.plan.model_copy(update={"replicas": 1})})
    with pytest.raises(KeyboardInterrupt):
        trained(single, resume="always", on_step=once(2 * EVERY + 2, interrupt))
    trained(run, resume="always")
    assert losses(run) == pytest.approx(losses(undisturbed), rel=1e-5)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_driver_is_replaced_and_all_actors_stay(
    victim: int, ray_session: Session, undisturbed: RunConfig, material: Path, tmp_path: Path
) -> None:
    run = config(material, tmp_path)
    before: list[int] = []
    after: list[int] = []

    def kill() -> None:
        before.extend(pids(run, RANKS))
        os.kill(sorted(driver_pids(ray_session))[victim], signal.SIGKILL)

    kill_once = once(3, kill)

    def watch(report: StepReport) -> None:
        if before and not after and report.step > EVERY:
            after.extend(pids(run, RANKS))
        kill_once(report)

    trained(run, on_step=watch)
    assert losses(run) == losses(undisturbed)
    assert before == after


def test_drivers_killed_around_saves_leave_no_checkpoint_of_another_step(
    ray_session: Session, undisturbed: RunConfig, material: Path, tmp_path: Path
) -> None:
    """Every step is saved, so the blows fall between a snapshot, its write and the next step."""
    run = config(material, tmp_path, checkpoint=EVERY_STEP)
    kills = [
        once(step, lambda number=number: kill_driver(ray_session, number % 2))
        for number, step in enumerate((2, 12))
    ]
    trained(run, on_step=lambda report: [kill(report) for kill in kills])
    assert losses(run) == losses(undisturbed)
    expected = {path.name: path for path in checkpoints(undisturbed.checkpoint.path)}
    found = checkpoints(run.checkpoint.path)
    assert found[-1].name == f"step-{STEPS:08d}"
    for path in found:
        ours, theirs = tensors_of(path), tensors_of(expected[path.name])
        assert ours.keys() == theirs.keys()
        assert all(ours[name].equal(theirs[name]) for name in theirs), path.name
        assert load_manifest(path).balance == load_manifest(expected[path.name]).balance


def kill_driver(session: Session, replica: int) -> None:
    """Kill one of the driving workers, if they have started."""
    drivers = sorted(driver_pids(session))
    if len(drivers) > replica:
        os.kill(drivers[replica], signal.SIGKILL)


@pytest.mark.parametrize("victim", [1, 2])
def test_a_killed_actor_restarts_all_from_the_checkpoint(
    victim: int, undisturbed: RunConfig, material: Path, tmp_path: Path
) -> None:
    run = config(material, tmp_path)
    trained(run, on_step=once(EVERY + 3, lambda: os.kill(pids(run, RANKS)[victim], signal.SIGKILL)))
    assert losses(run) == losses(undisturbed)


def test_all_drivers_stop_after_the_same_step(
    ray_session: Session, material: Path, tmp_path: Path
) -> None:
    run = config(material, tmp_path, train={"steps": 5000})
    with pytest.raises(ClusterError, match="was stopped before step 5000; --resume continues"):
        trained(run, on_step=once(3, lambda: stop(run.name)))
    deadline = time.monotonic() + 10
    while driver_pids(ray_session) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert driver_pids(ray_session) == []


def test_an_error_that_no_restart_mends_ends_all_drivers(
    ray_session: Session, material: Path, tmp_path: Path
) -> None:
    broken = tiny_material.diverging(material, tmp_path / "broken")
    run = config(material, tmp_path, model={"path": str(broken)})
    with pytest.raises(TrainingDiverged, match="gradient norm is nan; nothing was updated"):
        trained(run)
    assert checkpoints(run.checkpoint.path) == []
