"""Old checkpoints go in their order, and what killed writers left goes with them."""

from pathlib import Path

import pytest

from moe.checkpoint.drafts import drafted, prune
from moe.checkpoint.manifest import MANIFEST, checkpoints, step_directory


def test_only_the_newest_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    for step in (2, 4, 6, 10):
        step_directory(tmp_path, step).mkdir()
        (step_directory(tmp_path, step) / MANIFEST).write_text("{}")
    for leftover in (".step-00000008.1234abcd.partial", ".step-00000000.removed"):
        (tmp_path / leftover).mkdir()
    precious = [tmp_path / "journal.jsonl", tmp_path / ".step-notes"]
    for file in precious:
        file.touch()
    prune(tmp_path, keep=2)
    kept = [step_directory(tmp_path, 6), step_directory(tmp_path, 10)]
    assert checkpoints(tmp_path) == kept
    assert sorted(tmp_path.iterdir()) == sorted([*kept, *precious])


def test_a_directory_without_manifest_is_no_checkpoint_and_is_let_alone(tmp_path: Path) -> None:
    step_directory(tmp_path, 1).mkdir()
    assert checkpoints(tmp_path) == []
    prune(tmp_path, keep=1)
    assert step_directory(tmp_path, 1).is_dir()


def test_an_interrupted_draft_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with drafted(step_directory(tmp_path, 1)) as draft:
            (draft / MANIFEST).write_text("{}")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
