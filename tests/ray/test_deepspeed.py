"""``train.engine = "deepspeed"``: Ray Train's workers train as our own engine does."""

import importlib.util
import json
from pathlib import Path

import pytest

from actors.commands import StepReport
from cluster.journal import read
from cluster.session import Session
from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig
from moe.errors import ConfigError, LaunchError
from pipelines.corpus.shards import TokenShards
from pipelines.training.batches import batches
from pipelines.training.recording import JOURNAL
from pipelines.training.train import train
from tests import material
from tests.reference import PlainTraining

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None,
        reason="the extra [deepspeed] is not installed",
    ),
]

STEPS = 4


def run_of(folder: Path, threads: int = 1) -> RunConfig:
    """Return a run of two workers of DeepSpeed."""
    (folder / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    train = {"micro_batch": 1, "engine": "deepspeed", "deepspeed_config": str(folder / "ds.json")}
    plan = {"stages": 1, "replicas": 2, "profile": None, "threads": threads}
    changes = {"train": train, "plan": plan, "cluster": {"group_seconds": 120.0}}
    return material.run(folder, folder / "run", STEPS, 2, changes)


def nothing(*_: object) -> None:
    """Follow nothing."""


def test_a_cluster_without_room_for_the_workers_is_refused(
    ray_session: Session, tmp_path: Path
) -> None:
    run = run_of(material.make(tmp_path), threads=9)
    with pytest.raises(LaunchError, match=r"2 workers need a GPU each, or 9 cores each"):
        train(run, "never", nothing, nothing, nothing)


@pytest.mark.long
def test_workers_of_ray_train_train_save_and_tell(ray_session: Session, tmp_path: Path) -> None:
    run = run_of(material.make(tmp_path))
    steps: list[StepReport] = []
    last = train(run, "never", nothing, steps.append, nothing)
    plain = PlainTraining(run.model.path, run)
    shards = TokenShards.open(run.data.path, "train")
    for batch in batches(run, shards, 0):
        plain.step(batch)
    assert [each.loss for each in steps] == pytest.approx(plain.losses, rel=1e-5)
    assert last.name == f"step-{STEPS:08d}"
    assert Checkpoint.open(last).config == Checkpoint.open(run.model.path).config
    journal = read(run.checkpoint.path / JOURNAL)
    recorded = [each for each in journal if "event" not in each]
    assert [each["loss"] for each in recorded] == [each.loss for each in steps]
    assert [each["step"] for each in journal if each.get("event") == "checkpoint"] == [2, 4]
    longer = run.model_copy(update={"train": run.train.model_copy(update={"steps": 6})})
    with pytest.raises(ConfigError, match="DeepSpeed does not go on from one of its checkpoints"):
        train(longer, "always", nothing, nothing, nothing)
