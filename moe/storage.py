"""Locations of checkpoints: local directories, and all file systems that pyarrow knows.

A local location is a ``Path``. Any other location is a ``RemotePath``, which has the few path
operations that checkpoints need. Object stores have no rename and no locks, so this module uses
neither.
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
"""Number of bytes to copy at a time."""


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A file or directory at the relative path ``below`` a pyarrow filesystem URI.

    It holds no connection, so it can be pickled; each process opens its own filesystem once.
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
        """The parent directory, at most the directory of the URI."""
        return replace(self, below=self.below.rpartition("/")[0])

    def absolute(self) -> "RemotePath":
        """Return itself: a URI means the same in every process."""
        return self

    def exists(self) -> bool:
        """Return whether a file or directory exists."""
        return self._kind() != "NotFound"

    def is_file(self) -> bool:
        """Return whether a file exists."""
        return self._kind() == "File"

    def is_dir(self) -> bool:
        """Return whether a directory, or any file below it, exists."""
        return self._kind() == "Directory"

    def read_bytes(self) -> bytes:
        """Return the content of a file."""
        with self.doing("read"), self.open_input() as file:
            return bytes(file.read())

    def read_text(self, encoding: str) -> str:
        """Return the content of a file as text."""
        return self.read_bytes().decode(encoding)

    def glob(self, pattern: str) -> list["RemotePath"]:
        """Return the entries of this directory whose names match, sorted."""
        found = [entry.base_name for entry in self._listed(recursive=False)]
        return [self / name for name in sorted(found) if fnmatchcase(name, pattern)]

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of every file below this directory by relative name, from one
        listing.
        """
        top = self._key
        return {
            entry.path.removeprefix(top).lstrip("/"): entry.size
            for entry in self._listed(recursive=True)
            if entry.is_file
        }

    def open_input(self) -> Any:
        """Open a file for random-access reading; a context manager."""
        with self.doing("read"):
            return self._files.open_input_file(self._key)

    def open_output(self) -> Any:
        """Open a file for sequential writing; it exists once it is closed. A context manager."""
        with self.doing("write"):
            return self._files.open_output_stream(self._key)

    def remove(self) -> None:
        """Remove a file."""
        with self.doing("remove"):
            self._files.delete_file(self._key)

    def remove_tree(self) -> None:
        """Remove a directory and everything below it, if it exists."""
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
        """Re-raise a missing file as FileNotFoundError, and any other fault as StorageError."""
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
    """Return the location of a path or a URI; StorageError for an invalid URI."""
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
    """Return a location as a local path; StorageError if it is remote."""
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
    """Make a directory if the storage has directories."""
    if isinstance(directory, Path):
        directory.mkdir(exist_ok=True)


def remove_tree(directory: Location) -> None:
    """Remove a directory and everything below it."""
    if isinstance(directory, RemotePath):
        directory.remove_tree()
    else:
        shutil.rmtree(directory)


@contextmanager
def writing(file: Location) -> Iterator[Callable[[Any], object]]:
    """Yield a function that appends bytes to a new file; at the end, wait until they are on
    disk.
    """
    if isinstance(file, RemotePath):
        with file.doing("write"), file.open_output() as stream:
            yield stream.write
        return
    with file.open("wb") as opened:
        yield opened.write
        sync(opened)


def write_text(file: Location, text: str) -> None:
    """Write a file and wait until it is on disk."""
    with writing(file) as write:
        write(text.encode())


def copy_file(source: Path, to: Location) -> None:
    """Copy a local file to a location, and wait until it is on disk."""
    with writing(to) as write, source.open("rb") as opened:
        while block := opened.read(_BLOCK_BYTES):
            write(block)


def remedy(error: OSError) -> str:
    """Return advice for a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make sure that there is free space"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return (
            "it is read-only or belongs to another user; make sure that this user can write there"
        )
    return "make sure that the storage answers"


def sync(file: BinaryIO) -> None:
    """Wait until the content of an open file is on disk."""
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
