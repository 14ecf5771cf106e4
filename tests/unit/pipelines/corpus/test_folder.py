from pathlib import Path

import pytest

from moe.errors import DataError
from pipelines.corpus.folder import visible_files


def names(folder: Path, said: list[str] | None = None) -> list[str]:
    report = (said if said is not None else []).append
    return [str(path.relative_to(folder)) for path in visible_files(folder, report)]


def written(folder: Path, *files: str) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_files_behind_links_are_found_in_the_order_of_their_names(tmp_path: Path) -> None:
    elsewhere = written(tmp_path / "elsewhere", "deep/x.txt", "b.txt", ".hidden.txt")
    corpus = written(tmp_path / "corpus", "a.txt", "m/1.txt", "z.txt", ".git/config")
    (corpus / "linked").symlink_to(elsewhere)
    (corpus / "file.txt").symlink_to(elsewhere / "b.txt")
    (corpus / ".secret").symlink_to(elsewhere / "deep")
    assert names(corpus) == [
        "a.txt",
        "file.txt",
        "linked/b.txt",
        "linked/deep/x.txt",
        "m/1.txt",
        "z.txt",
    ]
    (tmp_path / "itself").symlink_to(corpus)
    assert names(tmp_path / "itself") == names(corpus)


def test_a_visible_link_opens_a_hidden_folder(tmp_path: Path) -> None:
    written(tmp_path, ".store/wiki/1.txt")
    (tmp_path / "wiki").symlink_to(".store/wiki")
    assert names(tmp_path) == ["wiki/1.txt"]


def test_a_folder_is_read_once_however_many_links_lead_there(tmp_path: Path) -> None:
    elsewhere = written(tmp_path / "elsewhere", "1.txt")
    corpus = written(tmp_path / "corpus", "2.txt")
    for name in ("x", "y"):
        (corpus / name).symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(corpus)
    said: list[str] = []
    assert names(corpus, said) == ["2.txt", "x/1.txt"]
    assert said == [f"skipped {corpus / 'x' / 'back'}: the link leads back to {corpus}"]


@pytest.mark.parametrize("up", [".", "..", "../.."])
def test_a_link_to_a_folder_around_it_is_told_and_left_out(tmp_path: Path, up: str) -> None:
    corpus = written(tmp_path / "corpus", "1.txt", "sub/2.txt")
    written(tmp_path, "other.txt")
    (corpus / "sub" / "loop").symlink_to(up)
    said: list[str] = []
    assert names(corpus, said) == ["1.txt", "sub/2.txt"]
    (line,) = said
    assert line.startswith(f"skipped {corpus / 'sub' / 'loop'}: the link leads back to ")


def test_a_link_to_nothing_is_told(tmp_path: Path) -> None:
    written(tmp_path, "1.txt")
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")
    (tmp_path / "itself.txt").symlink_to("itself.txt")
    said: list[str] = []
    assert names(tmp_path, said) == ["1.txt"]
    assert said == [
        f"skipped {tmp_path / name}: the link leads to {to}, which does not exist"
        for name, to in (("gone.txt", "nowhere.txt"), ("itself.txt", "itself.txt"))
    ]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the folder .*: No such file"):
        names(tmp_path / "absent")
