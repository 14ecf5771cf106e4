"""Locations on a disk and in an object store, which a real server keeps."""

import errno
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from moe.errors import StorageError
from moe.storage import (
    Location,
    RemotePath,
    copy_file,
    local,
    location,
    remedy,
    remove_tree,
    sizes,
    write_text,
    writing,
)
from tests import object_store


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with object_store.running() as uri:
        yield uri


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "disk":
        return tmp_path
    uri: str = request.getfixturevalue("store")
    return location(uri.format(f"folder/{tmp_path.name}"))


def test_what_is_written_is_there(
    folder: Location, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = tmp_path_factory.mktemp("source") / "source"
    source.write_bytes(b"abc")
    if isinstance(folder, Path):
        (folder / "below").mkdir()
    write_text(folder / "text", "ä")
    copy_file(source, folder / "below" / "copy")
    with writing(folder / "below" / "streamed") as write:
        write(memoryview(b"12"))
        write(b"3")
    assert sizes(folder) == {"below/copy": 3, "below/streamed": 3, "text": 2}
    assert (folder / "text").read_text(encoding="utf-8") == "ä"
    assert (folder / "below" / "streamed").read_bytes() == b"123"
    assert (folder / "below").is_dir()
    assert not (folder / "below").is_file()
    assert (folder / "text").is_file()
    assert [path.name for path in folder.glob("b*")] == ["below"]
    assert {path.name for path in (folder / "below").glob("*")} == {"copy", "streamed"}
    remove_tree(folder / "below")
    assert sizes(folder) == {"text": 2}
    assert not (folder / "below").exists()
    with pytest.raises(FileNotFoundError):
        (folder / "nothing").read_bytes()
    assert sizes(folder / "nothing") == {}


def test_a_remote_path_is_a_value(store: str) -> None:
    root = location(store.format("a/b"))
    assert isinstance(root, RemotePath)
    file = root / "c" / "d.json"
    assert pickle.loads(pickle.dumps(file)) == file
    assert {file: 1}[location(store.format("a/b")) / "c" / "d.json"] == 1
    assert str(file) == "s3://bucket/runs/a/b/c/d.json"
    assert (file.name, str(file.parent), file.absolute()) == ("d.json", str(root / "c"), file)
    assert root.name == "b"


def test_text_names_a_place() -> None:
    assert location("a/b") == Path("a/b")
    assert location("file:///a/b%20c") == Path("/a/b c")
    assert local(Path("a")) == Path("a")
    with pytest.raises(StorageError, match="s3://bucket/x is not a local path"):
        local(location("s3://bucket/x?region=there"))
    with pytest.raises(StorageError, match="written into every checkpoint"):
        location("s3://key:secret@bucket/x")
    with pytest.raises(StorageError, match="names no location"):
        location("s3://")


def test_a_filesystem_nobody_knows_is_refused() -> None:
    with pytest.raises(StorageError, match=r"cannot open zip://a/b: .*; give a URI that pyarrow"):
        location("zip://a/b").exists()


def test_a_bucket_that_is_not_there_is_told(store: str) -> None:
    wrong = location(store.format("x").replace("bucket/", "nobucket/"))
    with pytest.raises(StorageError, match=r"cannot write s3://nobucket/runs/x/a: .*; check the"):
        write_text(wrong / "a", "text")


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "free space"), (errno.EROFS, "read-only"), (errno.EIO, "storage answers")],
)
def test_what_cannot_be_written_is_told_from_what_is_full(number: int, advice: str) -> None:
    assert advice in remedy(OSError(number, os.strerror(number)))
