"""How long nobody has told a rank anything: a rank that nobody drives must not hold its GPU.

The driver of a run asks every rank for its status long before its patience ends, whatever the run
does meanwhile. Silence therefore says that there is no driver any more, and none has come since.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

LOOKS = 20
"""How often a rank looks at the clock before its patience ends."""

ORPHANED = 71
"""Exit code of a rank that nobody drives."""

logger = logging.getLogger(__name__)

Alone = Callable[[float], None]
"""Called with the seconds that the rank waits for; ends the process, or returns to wait on."""


def end_process(seconds: float) -> None:
    """End this process, in which a rank has waited for its driver for so long."""
    os._exit(ORPHANED)


class Silence:
    """The clock of one rank, which runs once ``limit`` has said for how long the rank waits."""

    def __init__(self, alone: Alone) -> None:
        self._alone = alone
        self._told = time.monotonic()
        self._limit = 0.0
        self._changed = threading.Event()
        self._watched = False

    @property
    def seconds(self) -> float | None:
        """Seconds since the rank was last told something; None where it waits for ever."""
        return time.monotonic() - self._told if self._limit else None

    def heard(self) -> None:
        """Note that somebody tells the rank something."""
        self._told = time.monotonic()

    def limit(self, seconds: float) -> None:
        """Wait for so many seconds from now on; 0 waits for ever."""
        self.heard()
        self._limit = seconds
        self._changed.set()
        if seconds and not self._watched:
            self._watched = True
            threading.Thread(target=self._watch, name="silence", daemon=True).start()

    def _watch(self) -> None:
        while True:
            began = time.monotonic()
            self._changed.wait(self._limit / LOOKS if self._limit else None)
            self._changed.clear()
            if time.monotonic() - began > self._limit / 2:
                self.heard()  # this process was stopped itself; what it was told may be unread
            elif self._limit and time.monotonic() - self._told > self._limit:
                self._give_up()

    def _give_up(self) -> None:
        logger.warning(
            "nobody has told this rank anything for %g s: its driver is gone", self._limit
        )
        try:
            self._alone(self._limit)
        except Exception:
            logger.exception("a rank that nobody drives could not give back what it holds")
            if time.monotonic() - self._told > 2 * self._limit:
                end_process(self._limit)  # its cluster is gone as well
