"""``train.engine = "deepspeed"``: Ray Train's workers train as our own engine does."""

import importlib.util
import json
from pathlib import Path

import pytest

from actors.commands import StepReport
from cluster.journal import read
from cluster.session import Session
from moe.checkpoint.reader import Checkpoint
from moe.errors import ConfigError
from pipelines.corpus.shards import TokenShards
from pipelines.training.batches import batches
from pipelines.training.recording import JOURNAL
from pipelines.training.train import train
from tests import material
from tests.reference import PlainTraining

pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None,
        reason="the extra [deepspeed] is not installed",
    ),
]

STEPS = 4


def test_workers_of_ray_train_train_save_and_tell(
    ray_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = material.make(tmp_path)
    (folder / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    by_deepspeed = {"engine": "deepspeed", "deepspeed_config": str(folder / "ds.json")}
    run = material.run(
        folder,
        folder / "run",
        STEPS,
        2,
        {"train": by_deepspeed | {"micro_batch": 1}},
        {"plan": {"stages": 1, "replicas": 2, "profile": None}},
    )
    steps: list[StepReport] = []
    last = train(run, "never", lambda plan, session: None, steps.append, lambda line: None)
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
        train(longer, "always", lambda plan, session: None, steps.append, lambda line: None)
