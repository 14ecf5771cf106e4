"""Draws a report again and again while its runs go on."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.reporting.planned import Planned, plan_of
from pipelines.reporting.recorded import Recorded, journal_of, read_run
from pipelines.screen.report.page import write_report

_REST = 10
"""A drawing is followed by a rest so many times as long, at least: a long journal takes long."""


def follow(
    page: Path,
    paths: Sequence[Path],
    every_seconds: int,
    wait: Callable[[float], object] = time.sleep,
) -> bool:
    """Write the page whenever a journal has changed, until all runs are done or it is interrupted.

    Return whether there was something to write. The browser loads the page again by itself, but not
    the last one, of runs that are done.
    """
    runs: list[Recorded] = []
    seen: list[tuple[int, int]] = []
    try:
        while not (runs and all(map(_is_done, runs))):
            began = time.monotonic()
            now = [_state(journal_of(path)) for path in paths]
            if now != seen and all(inode for inode, _ in now):
                runs, seen = [read_run(path) for path in paths], now
                write_report(page, runs, every_seconds)
            wait(max(every_seconds, _REST * (time.monotonic() - began)))
    except KeyboardInterrupt:
        pass
    if runs:
        write_report(page, runs)
    return bool(runs)


def _state(journal: Path) -> tuple[int, int]:
    """Return what changes whenever a journal does; both are 0 where there is none yet."""
    if not journal.is_file():
        return 0, 0
    found = journal.stat()
    return found.st_ino, found.st_size


def _is_done(run: Recorded) -> bool:
    """Tell whether a run has done all its steps; its last checkpoint says how many these are."""
    found = plan_of(run)
    return isinstance(found, Planned) and run.last_step >= found.run.train.steps
