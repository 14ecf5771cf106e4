"""The sign of life of a driver: its ranks end themselves where nobody gives one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNS = 4
"""Signs of life in the time for which ranks wait for one."""


@contextmanager
def present(ask: Callable[[], object], orphan_seconds: float) -> Iterator[None]:
    """Ask the ranks something now and then during the block, beside whatever it does.

    A driver may wait long for a disk or a store and has nothing to tell its ranks then. Ranks wait
    ``orphan_seconds``; 0 needs no sign.
    """
    over = threading.Event()

    def keep() -> None:
        while not over.wait(orphan_seconds / SIGNS):
            ask()

    if orphan_seconds:
        threading.Thread(target=keep, name="sign of life", daemon=True).start()
    try:
        yield
    finally:
        over.set()
