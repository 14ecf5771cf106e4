from pathlib import Path

import pytest

from moe.errors import StorageError
from moe.staging import staged


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
