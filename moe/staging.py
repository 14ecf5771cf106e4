"""Directories that appear complete or not at all.

A directory is written under a hidden name and then renamed. A failed block removes the hidden
directory; a killed process cannot, but its lock on the directory ends with it, and the next process
with the same destination removes every hidden directory without a lock. A directory exists for a
moment before it is locked; if another process removes it as a leftover in that moment, a new one is
made. On a file system without locks, nothing is removed.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from moe.errors import StorageError
from moe.sizes import unlike_texts

_TOKEN_BYTES = 4
_TOKEN = "[0-9a-f]" * (2 * _TOKEN_BYTES)
_ATTEMPTS = 100


@contextmanager
def staged(to: Path) -> Iterator[Path]:
    """Yield a hidden directory beside ``to``; rename it to ``to`` when the block succeeds.

    A failed or interrupted block leaves nothing; a killed process leaves only the hidden directory,
    which no reader opens and the next process removes.
    """
    refuse_existing(to)
    to = to.resolve()
    _clean(to)
    partial, descriptor = _claimed(to)
    try:
        yield partial
        _sync_tree(partial)
        partial.rename(to)
        _sync(to.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(descriptor)


def clean(parent: Path, names: str) -> None:
    """Remove unlocked hidden directories whose destinations match a pattern."""
    _clean_matching(parent, f".{names}.{_TOKEN}.partial")


def refuse_existing(to: Path) -> None:
    """Raise StorageError unless ``to`` is absent or an empty directory."""
    if not to.exists() and not to.is_symlink():
        return
    if not to.is_dir():
        raise StorageError(f"{to} is not a directory; remove it or choose another destination")
    if any(to.iterdir()):
        raise StorageError(f"{to} exists and is not empty; remove it or choose another destination")


def check_room(to: Path, needed_bytes: int) -> None:
    """Raise StorageError if the disk of a destination is not writable or has too little free space.

    A file system that reports no size is assumed to have enough free space.
    """
    parent = next(each for each in to.resolve().parents if each.is_dir())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise StorageError(
            f"cannot write to {parent}: it is read-only, or belongs to another user; choose "
            "another destination"
        )
    disk = shutil.disk_usage(parent)
    if disk.total and needed_bytes > disk.free:
        needed, free = unlike_texts(needed_bytes, disk.free)
        raise StorageError(
            f"the model takes {needed} but {parent} has {free} free; choose another destination, "
            "or make the model smaller: fewer experts or layers"
        )


def _claimed(to: Path) -> tuple[Path, int]:
    """Return a new hidden directory and the file descriptor that holds its lock."""
    for _ in range(_ATTEMPTS):
        partial = to.with_name(f".{to.name}.{secrets.token_hex(_TOKEN_BYTES)}.partial")
        _make(partial)
        descriptor = _opened(partial)
        if descriptor is None:
            continue
        if _lock(descriptor) is not False and _is_open_as(partial, descriptor):
            return partial, descriptor
        os.close(descriptor)
    raise StorageError(
        f"something removes the directories made in {to.parent}; stop it or choose another "
        "destination"
    )


def _clean(to: Path) -> None:
    """Remove the hidden directories of this destination whose processes are gone."""
    _clean_matching(to.parent, f".{escape(to.name)}.{_TOKEN}.partial")


def _clean_matching(parent: Path, pattern: str) -> None:
    for partial in parent.glob(pattern):
        descriptor = _opened(partial)
        if descriptor is None:
            continue
        try:
            if _lock(descriptor):
                shutil.rmtree(partial, ignore_errors=True)
        finally:
            os.close(descriptor)


def _opened(directory: Path) -> int | None:
    """Return a descriptor; None if the path is gone, is not a directory or may not be opened."""
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None


def _lock(descriptor: int) -> bool | None:
    """Try to lock; return whether it succeeded, or None if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _is_open_as(directory: Path, descriptor: int) -> bool:
    """Return whether the name still refers to the open directory."""
    try:
        return os.path.samestat(directory.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sync_tree(directory: Path) -> None:
    for folder, _, _ in os.walk(directory, topdown=False):
        _sync(Path(folder))


def _sync(directory: Path) -> None:
    """Wait until the names in a directory are on disk, if the file system supports it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise StorageError(
            f"cannot make {directory.parent}: {error.strerror}; choose another destination"
        ) from error
