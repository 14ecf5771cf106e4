"""Training by Ray Train: one curve, whether undisturbed, resumed, or with processes killed."""

import json
import os
import shutil
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import ray
import transformers

from actors.crew import ending, launch
from cluster.journal import JOURNAL, read
from cluster.session import Session
from moe.checkpoint.manifest import checkpoints, sealed
from moe.checkpoint.reader import Checkpoint
from moe.config.fault import Fault
from moe.config.run import RunConfig
from moe.errors import (
    CheckpointError,
    ClusterError,
    ConfigError,
    LaunchError,
    PlanError,
)
from pipelines.corpus.tokenize import TokenizeOptions, tokenize
from pipelines.training.board import open_board, stop
from pipelines.training.recording import recorded_steps
from pipelines.training.train import train
from tests import material as tiny_material
from tests import runs
from tests.driven import begun, driver_pids, losses, once, pids, tensors_of, trained
from tests.remains import remains

pytestmark = pytest.mark.ray

STEPS = 60
EVERY = 10


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_material.make(tmp_path_factory.mktemp("material"))


def config(material: Path, to: Path, **sections: Any) -> RunConfig:
    return tiny_material.run(material, to / "run", STEPS, EVERY, sections)


@pytest.fixture(scope="module")
def undisturbed(
    ray_session: Session, material: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    run = config(material, tmp_path_factory.mktemp("undisturbed"))
    trained(run)
    return run


def test_a_run_leaves_checkpoints_a_journal_and_no_actor(undisturbed: RunConfig) -> None:
    curve = losses(undisturbed)
    assert len(curve) == STEPS
    assert curve[-1] < curve[0]
    saved = checkpoints(undisturbed.checkpoint.path)
    assert [path.name for path in saved] == [
        f"step-{n:08d}" for n in range(EVERY, STEPS + 1, EVERY)
    ]
    model = transformers.AutoModelForCausalLM.from_pretrained(saved[-1])
    assert model.config.model_type == "mixtral"
    record = recorded_steps(undisturbed.checkpoint.path)[-1]
    assert sorted(record["layers"]) == ["0", "1", "2"]
    assert 0 < record["layers"]["0"]["coefficient"] <= 0.01
    records = read(undisturbed.checkpoint.path / JOURNAL)
    events = [each for each in records if each.get("event") == "checkpoint"]
    copies = [each["step"] for each in records if each.get("event") == "copies"]
    assert copies == sorted({*copies})
    assert copies[0] == 0
    assert [each["directory"] for each in events] == list(map(str, saved))
    assert all(0 < e["checkpoint_stall_seconds"] <= e["checkpoint_seconds"] for e in events)


def test_resuming_continues_bit_for_bit(
    undisturbed: RunConfig, material: Path, tmp_path: Path
) -> None:
    full = config(material, tmp_path)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        # The second snapshot waits for the first checkpoint.
        trained(full, on_step=once(2 * EVERY + 1, interrupt))
    assert 1 <= len(checkpoints(full.checkpoint.path)) < STEPS / EVERY
    trained(full, resume="always")
    assert losses(full) == losses(undisturbed)
    ours, theirs = (tensors_of(checkpoints(r.checkpoint.path)[-1]) for r in (full, undisturbed))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.mark.long
def test_a_killed_driver_keeps_the_actors_and_a_killed_actor_comes_back_alone(
    ray_session: Session, undisturbed: RunConfig, material: Path, tmp_path: Path
) -> None:
    run = config(material, tmp_path, elastic={"faults": True})
    fault = Fault("kill", rank=1, step=STEPS - 12, phase="backward")
    said: list[str] = []
    actors: list[list[int]] = []

    def kill_driver() -> None:
        actors.append(pids(run, 2))
        os.kill(*driver_pids(ray_session), signal.SIGKILL)

    looks = [once(3, kill_driver), once(EVERY, lambda: actors.append(pids(run, 2)))]
    trained(run, "never", lambda report: [look(report) for look in looks], said.append, [fault])
    assert losses(run) == losses(undisturbed)
    assert actors[0] == actors[1]
    assert any(line.startswith("after step ") for line in said), "how the run stands after the loss"
    said = [line for line in said if not line.startswith("after step ")]
    assert said.pop(1).startswith("copies of ranks in their peers take at most ")
    assert said[:4] == [
        "using the Ray session of this process",
        f"faults to come: {fault}",
        "waiting for 2 actors, at most 60 s",
        "2 actors are ready; training begins",
    ]
    assert said[4].startswith("2 actors are ready; training continues after step ")
    assert said[5].startswith(f"loss after step {STEPS - 12}: rank 1 died during step {STEPS - 12}")
    assert said[6].startswith("healed with new processes for rank 1 only in ")
    assert len(said) == 7
    told = ("began", "fault", "lost", "mended", "replayed")
    events = [each for each in read(run.checkpoint.path / JOURNAL) if each.get("event") in told]
    assert [each["event"] for each in events] == ["began", *told]
    assert [each["time"] for each in events] == sorted(each["time"] for each in events)
    first, second, happened, _, mended, _ = events
    assert (first["new"], second["new"], happened["fault"]) == (True, False, str(fault))
    assert (mended["restored"], mended["replaced"]) == (False, [1])
    steps = recorded_steps(run.checkpoint.path)
    assert all(0 < each["goodput"] < 1 for each in steps[5:])


def test_a_run_is_on_prometheus_and_in_the_state_of_ray_train_until_it_is_stopped_from_elsewhere(
    ray_session: Session, material: Path, tmp_path: Path
) -> None:
    run = config(material, tmp_path, train={"steps": 5000})
    page, told = "", {}

    def look_and_stop() -> None:
        nonlocal page, told
        told = train_state(ray_session, run)
        deadline = time.monotonic() + 20
        awaited = 'layer="2"', 'rank="0"', 'rank="1"', "ray_raymoe_copy_age"  # of three processes
        while any(each not in page for each in awaited) and time.monotonic() < deadline:
            page = metrics_page()
        stop(run.name)

    said = r"was stopped before step 5000; --resume continues from step \d+0$"
    with pytest.raises(ClusterError, match=said):
        trained(run, on_step=once(EVERY + 2, look_and_stop))
    for name in (
        "loss",
        "goodput",
        "epoch",
        "copy_age",
        "spares",
        "step_seconds",
        "tokens_per_second",
        "expert_load",
        "drop_rate",
        "balance_coefficient",
        "dead_experts",
        "checkpoint_step",
        "stage_seconds",
        "bubble",
        "rank_wait_seconds",
    ):
        assert f"ray_raymoe_{name}" in page, name
    assert 'layer="2"' in page
    assert all(f'rank="{rank}"' in page for rank in (0, 1))
    states = [line for line in page.splitlines() if 'state="training"' in line]
    assert any(state.endswith(" 1.0") for state in states)  # runs before it are told for a while
    assert told["status"] == "RUNNING"
    assert told["name"].startswith("tiny-")
    (attempt,) = told["attempts"]
    assert [worker["world_rank"] for worker in attempt["workers"]] == [0]


def test_what_cannot_run_is_refused_before_anything_starts(
    undisturbed: RunConfig, material: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="continue with --resume"):
        trained(undisturbed)
    said: list[str] = []
    assert trained(undisturbed, resume="always", tell=said.append) == []
    assert said == ["nothing to do: all 60 steps are done; raise train.steps to go on"]
    with pytest.raises(ConfigError, match="belongs to the run tiny, this run is other"):
        trained(undisturbed.model_copy(update={"name": "other"}), resume="always")
    changed = undisturbed.train.model_copy(update={"learning_rate": 0.1})
    with pytest.raises(ConfigError, match=r"train\.learning_rate was 0\.003 and is 0\.1"):
        trained(undisturbed.model_copy(update={"train": changed}), resume="always")
    again = tokens_again(undisturbed, tmp_path)
    with pytest.raises(ConfigError, match="was tokenized again"):
        trained(again, resume="always")
    copied = tmp_path / "edited"
    shutil.copytree(undisturbed.checkpoint.path, copied)
    edited = checkpoints(copied)[-1] / "config.json"
    edited.write_text(edited.read_text().replace('"rope_theta": 1', '"rope_theta": 2'))
    moved = undisturbed.checkpoint.model_copy(update={"path": copied})
    with pytest.raises(CheckpointError, match=f"{edited} has changed since it was saved"):
        trained(undisturbed.model_copy(update={"checkpoint": moved}), resume="always")
    with pytest.raises(ConfigError, match="nothing to resume"):
        trained(config(material, tmp_path / "new"), resume="always")
    with pytest.raises(PlanError, match="needs at least 3 micro-batches but has 2"):
        trained(config(material, tmp_path / "new", train={"global_batch": 2}, plan={"stages": 3}))
    faults = [Fault("kill", 2, 0, "step")]
    with pytest.raises(ConfigError, match=r"does not allow faults; set elastic.faults = true"):
        trained(config(material, tmp_path / "new"), faults=faults)
    with pytest.raises(ConfigError, match="the plan has the ranks 0 to 1; name one of them"):
        trained(config(material, tmp_path / "new", elastic={"faults": True}), faults=faults)
    with pytest.raises(Exception, match="but 8 devices"):
        trained(config(material, tmp_path / "new", plan={"stages": 3, "gang": 3}))
    assert not ending.running("tiny")


def tokens_again(run: RunConfig, folder: Path) -> RunConfig:
    """Return the run over the same text in rows of another length, at the same path."""
    moved = folder / "material"
    shutil.copytree(run.data.path.parent, moved)
    shutil.rmtree(moved / "tokens")
    options = TokenizeOptions(sequence_length=20, held_out_fraction=0.1)
    tokenize([moved / "text"], moved / "model", moved / "tokens", options)
    copied = folder / "run"
    shutil.copytree(run.checkpoint.path, copied)
    manifest = checkpoints(copied)[-1] / "raymoe.json"
    table = json.loads(manifest.read_text())
    table["run"]["data"]["path"] = str(moved / "tokens")
    manifest.write_text(json.dumps(sealed(table)))
    data = run.data.model_copy(update={"path": moved / "tokens"})
    checkpoint = run.checkpoint.model_copy(update={"path": copied})
    return run.model_copy(update={"data": data, "checkpoint": checkpoint})


def test_a_second_run_of_the_same_name_is_refused(
    ray_session: Session, material: Path, tmp_path: Path
) -> None:
    plan = runs.plan(Checkpoint.open(material / "model").config, (3,))
    crew = launch.launch("tiny", plan, detached=False, seconds=60)
    try:
        with pytest.raises(LaunchError, match="a run named tiny is on this cluster already"):
            train(
                config(material, tmp_path), "never", lambda plan, session: None, lambda report: None
            )
    finally:
        ending.remove("tiny")
    assert len(crew.seats) == 1


def test_a_second_run_is_refused_while_the_first_has_no_actors_yet(
    ray_session: Session, material: Path, tmp_path: Path
) -> None:
    run = config(material, tmp_path)
    with open_board("tiny"), pytest.raises(LaunchError, match="take it over with --resume; end it"):
        train(run, "never", lambda plan, session: None, lambda report: None)


def test_interrupting_the_command_line_leaves_nothing(
    ray_session: Session, material: Path, tmp_path: Path
) -> None:
    """A process on the shared cluster is interrupted in the middle of a run."""
    run = config(material, tmp_path, train={"steps": 500}, cluster={"address": ray_session.address})
    with begun(run, tmp_path / "run.json") as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip().isdigit()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) != 0
    assert remains(run.name, run.checkpoint.path) == []


def test_a_killed_command_line_is_taken_over_where_its_actors_stand(
    ray_session: Session, undisturbed: RunConfig, material: Path, tmp_path: Path
) -> None:
    run = config(material, tmp_path, cluster={"address": ray_session.address})
    killed_in_the_middle(run, tmp_path / "run.json", EVERY + 5)
    before = pids(run, 2)
    longer = run.model_copy(update={"train": run.train.model_copy(update={"steps": 2 * STEPS})})
    with pytest.raises(ConfigError, match=r"which live, but train\.steps was 60 and is 120"):
        train(longer, "if-saved", lambda plan, session: None, lambda report: None)
    said: list[str] = []
    after: list[list[int]] = []
    look = once(0, lambda: after.append(pids(run, 2)))
    trained(run, "always", look, said.append)
    assert "taking over 2 actors of tiny where they stand" in said
    assert after == [before]
    assert losses(run) == losses(undisturbed)
    ours, theirs = (tensors_of(checkpoints(r.checkpoint.path)[-1]) for r in (run, undisturbed))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_actors_that_nobody_takes_over_end_with_all_that_they_hold(
    ray_session: Session, material: Path, tmp_path: Path
) -> None:
    elastic = {"orphan_seconds": 3.0, "hang_seconds": 1.0}
    sections = {"cluster": {"address": ray_session.address}, "elastic": elastic}
    run = config(material, tmp_path, train={"steps": 5000}, **sections)
    killed_in_the_middle(run, tmp_path / "run.json", 5)
    assert ending.running(run.name)
    assert remains(run.name, tmp_path / "no files") == []


def killed_in_the_middle(run: RunConfig, file: Path, step: int) -> None:
    """Begin a run, kill its command line after a step, and wait until nobody drives it."""
    with begun(run, file) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < step:
            pass
        process.kill()
    deadline = time.monotonic() + 20
    while board_of(run):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_run_that_is_terminated_while_it_starts_leaves_nothing(
    ray_session: Session, material: Path, tmp_path: Path
) -> None:
    """Ray takes SIGTERM for itself when it starts, and aborts."""
    run = config(material, tmp_path, cluster={"address": ray_session.address})
    with begun(run, tmp_path / "run.json") as process:
        deadline = time.monotonic() + 60
        while not board_of(run):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.terminate()
        assert process.wait(timeout=60) == -signal.SIGINT
    assert remains(run.name, run.checkpoint.path) == []


def board_of(run: RunConfig) -> bool:
    """Tell whether somebody drives a run of that name."""
    try:
        ray.get_actor(f"{run.name}/board")
    except ValueError:
        return False
    return True


def train_state(session: Session, run: RunConfig) -> dict[str, Any]:
    """Return what Ray Train's REST endpoint says of the run that is going on."""
    url = f"{session.dashboard_url}/api/train/v2/runs/v1"
    with urllib.request.urlopen(url, timeout=10) as page:
        table = json.loads(page.read())
    (told,) = [each for each in table["train_runs"] if each["status"] == "RUNNING"]
    return dict(told)


def metrics_page() -> str:
    nodes: list[dict[str, Any]] = ray.nodes()
    port = nodes[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        return str(page.read().decode())
