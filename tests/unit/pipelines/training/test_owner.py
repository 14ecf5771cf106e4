"""Two runs never share a directory."""

import json
from pathlib import Path

import pytest

from cluster.journal import JOURNAL
from moe.config.run import RunConfig
from moe.errors import ConfigError
from pipelines.training.owner import OWNER, check_owner, owned
from tests import runs


def named(name: str, path: Path, storage: Path | None = None) -> RunConfig:
    path.mkdir(exist_ok=True)
    section = {"path": str(path)} | ({} if storage is None else {"storage": storage.as_uri()})
    return runs.run_config(path, checkpoint=section).model_copy(update={"name": name})


def test_another_run_is_refused_by_name_and_nothing_is_replaced(tmp_path: Path) -> None:
    with owned(named("first", tmp_path / "runs")):
        (tmp_path / "runs" / JOURNAL).write_text("{}\n")
        said = r"checkpoint\.path .*/runs belongs to the run first, this run is second; give"
        with pytest.raises(ConfigError, match=said), owned(named("second", tmp_path / "runs")):
            pass
    with pytest.raises(ConfigError, match=said):
        check_owner(named("second", tmp_path / "runs"))
    with owned(named("first", tmp_path / "runs")):
        assert (tmp_path / "runs" / JOURNAL).read_text() == "{}\n"


def test_a_run_that_recorded_nothing_leaves_its_directory_to_others(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), owned(named("first", tmp_path / "runs")):
        raise KeyboardInterrupt
    assert list((tmp_path / "runs").iterdir()) == []
    check_owner(named("second", tmp_path / "runs"))


def test_checkpoints_in_a_storage_of_their_own_belong_to_one_run_too(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    first = named("first", tmp_path / "a", storage=tmp_path / "bucket")
    with owned(first):
        assert json.loads((tmp_path / "bucket" / OWNER).read_text()) == {"run": "first"}
        second = named("second", tmp_path / "b", storage=tmp_path / "bucket")
        with pytest.raises(ConfigError, match=r"checkpoint\.storage .* belongs to the run first"):
            check_owner(second)


def test_checkpoints_without_an_owner_belong_to_the_run_that_wrote_them(tmp_path: Path) -> None:
    """As an older version left them."""
    saved = tmp_path / "runs" / "step-00000003"
    saved.mkdir(parents=True)
    (saved / "raymoe.json").write_text(json.dumps({"run": {"name": "first"}}))
    check_owner(named("first", tmp_path / "runs"))
    with pytest.raises(ConfigError, match="belongs to the run first, this run is second"):
        check_owner(named("second", tmp_path / "runs"))
