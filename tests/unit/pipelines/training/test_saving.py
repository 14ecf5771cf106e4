"""What goes wrong around a checkpoint that ranks have written."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moe.checkpoint.manifest import MANIFEST
from moe.errors import StorageError
from pipelines.training import saving
from pipelines.training.saving import CheckpointSaver, Saved
from tests import plans, runs


class Written:
    """An engine whose ranks have written at once."""

    plan = plans.single(plans.SMOLLM2)

    def snapshot(self, step: int) -> None:
        """Nothing is copied."""

    def write(self, directory: Any, step: int) -> Any:
        return SimpleNamespace(result=list, done=lambda: True)


def saver(folder: Path, whole: list[Saved]) -> CheckpointSaver:
    run = runs.run_config(folder, checkpoint={"path": str(folder / "run")})
    engine: Any = Written()
    context: Any = SimpleNamespace(run=run)
    return CheckpointSaver(engine, context, whole.append)


def test_old_checkpoints_that_stay_end_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise StorageError("the store is busy")

    monkeypatch.setattr(saving, "complete", lambda *_: None)
    monkeypatch.setattr(saving, "prune", refuse)
    whole: list[Saved] = []
    saves = saver(tmp_path, whole)
    with caplog.at_level(logging.WARNING):
        saves.take(3)
        saves.take(4)
    assert [each.step for each in whole] == [3]
    assert 0 <= whole[0].stall_seconds <= whole[0].seconds
    assert "could not be removed yet: the store is busy" in caplog.text


def test_a_full_disk_at_the_end_of_a_save_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "complete", full)
    whole: list[Saved] = []
    saves = saver(tmp_path, whole)
    saves.take(3)
    with pytest.raises(StorageError, match=r"could not complete .*step-00000003: .*No space left"):
        saves.take(4)
    assert not whole
    assert not list((tmp_path / "run").iterdir())


def test_a_step_that_is_done_again_is_not_saved_again(tmp_path: Path) -> None:
    (tmp_path / "run" / "step-00000003").mkdir(parents=True)
    (tmp_path / "run" / "step-00000003" / MANIFEST).write_text("{}")
    whole: list[Saved] = []
    with saver(tmp_path, whole) as saves:
        saves.take(3)
        saves.take(4)
        assert [each.name for each in (tmp_path / "run").iterdir() if each.name[0] == "."] != []
    assert whole == []
