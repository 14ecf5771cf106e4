"""What killed runs left beside a destination.

``staged`` cleans up after itself unless the process is killed. A lock on its hidden directory lasts
exactly as long as the process, so a directory that can be locked belongs to nobody.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Hold the lock of a hidden directory."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def clean(to: Path) -> None:
    """Remove the hidden directories of this destination whose processes are gone."""
    to = to.resolve()
    for partial in to.parent.glob(f".{to.name}.????????.partial"):
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            if _lock(descriptor):
                shutil.rmtree(partial, ignore_errors=True)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Tell whether nobody held the lock; a file system without locks is let alone."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
