import contextlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moe.errors import StorageError
from moe.staging import check_room, staged


def test_appears_whole(tmp_path: Path) -> None:
    with staged(tmp_path / "new" / "there") as partial:
        (partial / "file").write_text("x")
        assert not (tmp_path / "new" / "there").exists()
    assert (tmp_path / "new" / "there" / "file").read_text() == "x"
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), ValueError("broken")])
def test_a_failed_block_leaves_nothing(tmp_path: Path, fault: BaseException) -> None:
    def interrupted() -> None:
        with staged(tmp_path / "there") as partial:
            (partial / "file").write_text("x")
            raise fault

    with pytest.raises(type(fault)):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with staged(tmp_path / "there") as partial:
        (partial / "file").write_text("x")
    assert (tmp_path / "there" / "file").exists()


def test_a_full_directory_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="exists and is not empty"), staged(tmp_path):
        pass
    with pytest.raises(StorageError, match="is not a directory"), staged(tmp_path / "file"):
        pass
    with pytest.raises(StorageError, match="cannot make"), staged(tmp_path / "file" / "below"):
        pass


ODD_NAMES = ["moe", "[a]*?", "x.0a1b2c3d.partial", "two words\n"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_what_a_dead_process_left_goes_and_a_living_neighbour_stays(
    name: str, tmp_path: Path
) -> None:
    dead = tmp_path / f".{name}.0a1b2c3d.partial"
    (dead / "below").mkdir(parents=True)
    others = [tmp_path / ".other.0a1b2c3d.partial", tmp_path / f".{name}.my-notes.partial"]
    for other in others:
        other.mkdir()
    with staged(tmp_path / name) as living:
        assert not dead.exists()
        (living / "file").write_text("x")
        with contextlib.suppress(KeyError), staged(tmp_path / name) as second:
            assert living != second
            raise KeyError
        assert (living / "file").exists(), "what a living process writes is let alone"
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / name])


def test_a_file_or_a_link_with_the_name_of_a_leftover_is_let_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / ".moe.0a1b2c3d.partial").symlink_to(tmp_path / "precious")
    (tmp_path / ".moe.1a1b2c3d.partial").touch()
    before = sorted(tmp_path.iterdir())
    with staged(tmp_path / "moe"):
        pass
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "moe"])


def test_runs_that_begin_together_do_not_take_each_others_directories(tmp_path: Path) -> None:
    """The moment between making a directory and locking it is short: many runs, many times."""

    def run(number: int) -> int:
        kept = 0
        for _ in range(40):
            with contextlib.suppress(ValueError), staged(tmp_path / "moe") as partial:
                (partial / "file").write_text(str(number))
                kept += (partial / "file").read_text() == str(number)
                raise ValueError
        return kept

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(run, range(8))) == [40] * 8
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path) -> None:
    check_room(tmp_path / "new" / "there", 1)
    with pytest.raises(StorageError, match=r"takes 1,000,000,000.0 GB but .* [GM]B free; choose"):
        check_room(tmp_path / "new" / "there", 10**18)


def test_sizes_that_nearly_fit_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=12_001))
    with pytest.raises(StorageError, match=r"takes 12\.002 kB but .* has 12\.001 kB free"):
        check_room(tmp_path / "there", 12_002)


def test_what_cannot_be_written_is_not_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel file system tells no size and takes no directory; a read-only one neither."""
    with (
        pytest.raises(StorageError, match=r"cannot (make|write to) /proc"),
        staged(Path("/proc/there/model")),
    ):
        check_room(Path("/proc/there/model"), 10**18)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StorageError, match=f"cannot write to {tmp_path}: it is read-only, or"):
        check_room(tmp_path / "there", 10**18)
