"""Checkpoints that appear complete or not at all, and the removal of old checkpoints.

On a disk, a checkpoint is written under a hidden name and then renamed. An object store cannot
rename: there the manifest, which is written last, makes the checkpoint valid, and it is removed
first.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

from moe.checkpoint.manifest import MANIFEST, checkpoints
from moe.errors import StorageError
from moe.staging import clean, staged
from moe.storage import P, RemotePath


@contextmanager
def drafted(to: P) -> Iterator[P]:
    """Yield the location to write to; ``to`` is a complete checkpoint when the block succeeds.

    Remains of an earlier attempt at ``to`` are removed; a complete checkpoint there is refused.
    """
    if isinstance(to, RemotePath):
        with _remote(to):
            yield cast(P, to)
    else:
        with staged(cast(Path, to)) as directory:
            yield cast(P, directory)


def prune(directory: P, keep: int) -> None:
    """Remove all but the newest ``keep`` complete checkpoints, and the remains of killed writers.

    A checkpoint that is being written stays: on a disk it has a lock; elsewhere, only an incomplete
    checkpoint that is older than a complete one counts as remains.
    """
    complete = checkpoints(directory)
    for path in complete[:-keep]:
        _remove(path)
    if isinstance(directory, RemotePath):
        newest = complete[-1].name if complete else ""
        for torn in directory.glob("step-*"):
            if torn.name < newest and not (torn / MANIFEST).exists():
                torn.remove_tree()
    else:
        clean(cast(Path, directory), "step-*")
        for doomed in directory.glob(".step-*.removed"):
            shutil.rmtree(cast(Path, doomed), ignore_errors=True)


@contextmanager
def _remote(to: RemotePath) -> Iterator[None]:
    if (to / MANIFEST).exists():
        raise StorageError(
            f"{to} is a complete checkpoint; remove it or choose another destination"
        )
    to.remove_tree()
    try:
        yield
    except BaseException:
        with suppress(StorageError, FileNotFoundError):
            _remove(to)
        raise


def _remove(path: Path | RemotePath) -> None:
    """Remove a checkpoint so that it never looks complete during the removal."""
    if isinstance(path, RemotePath):
        if (path / MANIFEST).exists():
            (path / MANIFEST).remove()
        path.remove_tree()
        return
    doomed = path.with_name(f".{path.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)
