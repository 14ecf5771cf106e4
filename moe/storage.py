"""Locations that hold checkpoints: local directories, and whatever pyarrow's filesystems reach.

A local location is a ``Path``. Anything else is a ``RemotePath``, which offers the few operations
of a path that checkpoints need. Object stores have no rename and no locks, so nothing here uses
them.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

from moe.errors import StorageError

_BLOCK_BYTES = 2**20
"""Bytes of a file that are copied at a time."""


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A file or directory ``below`` the one that a pyarrow filesystem URI names.

    It holds no connection, so it travels between processes; each opens its own filesystem, once.
    """

    uri: str
    below: str = ""

    def __str__(self) -> str:
        """The address without options; credentials are in the environment, never in a URI."""
        parts = urlsplit(self.uri)
        return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/") + (
            f"/{self.below}" if self.below else ""
        )

    def __truediv__(self, name: str) -> "RemotePath":
        return replace(self, below=f"{self.below}/{name}".strip("/"))

    @property
    def name(self) -> str:
        """Last part of the address."""
        return str(self).rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        """The directory around it, at most the one the URI names."""
        return replace(self, below=self.below.rpartition("/")[0])

    def absolute(self) -> "RemotePath":
        """Return itself: it means the same in every process."""
        return self

    def exists(self) -> bool:
        """Tell whether a file or directory is there."""
        return self._kind() != "NotFound"

    def is_file(self) -> bool:
        """Tell whether a file is there."""
        return self._kind() == "File"

    def is_dir(self) -> bool:
        """Tell whether a directory, or any file below it, is there."""
        return self._kind() == "Directory"

    def read_bytes(self) -> bytes:
        """Return what a file holds."""
        with self.doing("read"), self.open_input() as file:
            return bytes(file.read())

    def read_text(self, encoding: str) -> str:
        """Return what a file holds as text."""
        return self.read_bytes().decode(encoding)

    def glob(self, pattern: str) -> list["RemotePath"]:
        """Return the files and directories of this one whose names match, sorted."""
        found = [entry.base_name for entry in self._listed(recursive=False)]
        return [self / name for name in sorted(found) if fnmatchcase(name, pattern)]

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file below this directory by relative name: one listing."""
        top = self._key
        return {
            entry.path.removeprefix(top).lstrip("/"): entry.size
            for entry in self._listed(recursive=True)
            if entry.is_file
        }

    def open_input(self) -> Any:
        """Open a file for reading at any place; a context."""
        with self.doing("read"):
            return self._files.open_input_file(self._key)

    def open_output(self) -> Any:
        """Open a file for writing front to back; it is there when it is closed. A context."""
        with self.doing("write"):
            return self._files.open_output_stream(self._key)

    def remove(self) -> None:
        """Remove a file."""
        with self.doing("remove"):
            self._files.delete_file(self._key)

    def remove_tree(self) -> None:
        """Remove a directory with all below it, if it is there."""
        with self.doing("remove"):
            self._files.delete_dir_contents(self._key, missing_dir_ok=True)
            if self.is_dir():
                self._files.delete_dir(self._key)

    def _kind(self) -> str:
        with self.doing("read"):
            return str(self._files.get_file_info(self._key).type.name)

    def _listed(self, recursive: bool) -> list[Any]:
        from pyarrow.fs import FileSelector

        with self.doing("list"):
            selector = FileSelector(self._key, allow_not_found=True, recursive=recursive)
            return list(self._files.get_file_info(selector))

    @property
    def _files(self) -> Any:
        return _opened(self.uri)[0]

    @property
    def _key(self) -> str:
        top = _opened(self.uri)[1]
        return f"{top}/{self.below}" if self.below else top

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Let a missing file be one, and say of any other fault what was tried where."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(
                f"cannot {what} {self}: {error}; check the address, the credentials in the "
                "environment and whether the service answers"
            ) from error


Location = Path | RemotePath
"""A directory or file of a checkpoint."""

P = TypeVar("P", bound=Location)


def location(text: str) -> Location:
    """Return the location that a path or a URI names; StorageError where the URI cannot be one."""
    if "://" not in text:
        return Path(text)
    parts = urlsplit(text)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if "@" in parts.netloc:
        raise StorageError(
            f"a {parts.scheme} URI with a user or password would be written into every checkpoint; "
            "leave them out and give credentials in the environment"
        )
    if not parts.netloc and not parts.path.strip("/"):
        raise StorageError(f"{text} names no location; give a bucket or host, and a prefix")
    return RemotePath(text)


def local(found: Location) -> Path:
    """Return a location as a path; StorageError where it is not on a disk of this machine."""
    if isinstance(found, RemotePath):
        raise StorageError(f"{found} is not a local path; copy it to a disk and give that")
    return found


def sizes(directory: Location) -> dict[str, int]:
    """Return the size in bytes of every file below a directory, by relative name."""
    if isinstance(directory, RemotePath):
        return directory.sizes()
    return {
        str(path.relative_to(directory)): path.stat().st_size
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def make_directory(directory: Location) -> None:
    """Make a directory where the storage has directories of its own."""
    if isinstance(directory, Path):
        directory.mkdir(exist_ok=True)


def remove_tree(directory: Location) -> None:
    """Remove a directory and all below it."""
    if isinstance(directory, RemotePath):
        directory.remove_tree()
    else:
        shutil.rmtree(directory)


@contextmanager
def writing(file: Location) -> Iterator[Callable[[Any], object]]:
    """Yield a function that appends bytes to a new file; at the end wait until they are safe."""
    if isinstance(file, RemotePath):
        with file.doing("write"), file.open_output() as stream:
            yield stream.write
        return
    with file.open("wb") as opened:
        yield opened.write
        sync(opened)


def write_text(file: Location, text: str) -> None:
    """Write a file and wait until it is safe."""
    with writing(file) as write:
        write(text.encode())


def copy_file(source: Path, to: Location) -> None:
    """Copy a local file to a location, and wait until it is safe."""
    with writing(to) as write, source.open("rb") as opened:
        while block := opened.read(_BLOCK_BYTES):
            write(block)


def remedy(error: OSError) -> str:
    """Return what to do about a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "see that there is room"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "it is read-only or belongs to another user; see that this user can write there"
    return "see that the storage answers"


def sync(file: BinaryIO) -> None:
    """Wait until what was written to an open file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


@lru_cache(maxsize=8)
def _opened(uri: str) -> tuple[Any, str]:
    """Return the filesystem of a URI and the path in it."""
    from pyarrow.fs import FileSystem

    try:
        files, top = FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        raise StorageError(
            f"cannot open {RemotePath(uri)}: {error}; give a URI that pyarrow.fs knows, such as "
            "s3://bucket/prefix?region=NAME"
        ) from error
    return files, top.rstrip("/")
