"""Directories that appear whole or not at all."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moe.errors import StorageError


@contextmanager
def staged(to: Path) -> Iterator[Path]:
    """Yield a hidden directory beside ``to`` that takes its name when the block ends well.

    A block that fails or is interrupted leaves nothing; a killed process leaves only the hidden
    directory, which no reader opens.
    """
    refuse_existing(to)
    to = to.resolve()
    partial = to.with_name(f".{to.name}.{secrets.token_hex(4)}.partial")
    try:
        _make(partial)
        yield partial
        partial.rename(to)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(to: Path) -> None:
    """Raise StorageError where ``to`` is anything but absent or an empty directory."""
    if not to.exists() and not to.is_symlink():
        return
    if not to.is_dir():
        raise StorageError(f"{to} is not a directory; remove it or choose another destination")
    if any(to.iterdir()):
        raise StorageError(f"{to} exists and is not empty; remove it or choose another destination")


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise StorageError(
            f"cannot make {directory.parent}: {error.strerror}; choose another destination"
        ) from error
