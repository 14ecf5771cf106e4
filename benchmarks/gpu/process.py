"""A part of the check in a process of its own, ended at its deadline with all that it started.

A part that hangs, or that leaves a CUDA context dead, costs nothing but itself. Processes are
forked from a server that has imported torch and the ranks, but has never touched CUDA, so a part
begins within milliseconds.
"""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NamedTuple

from benchmarks.gpu.rows import Row, Setting

Work = Callable[[Setting], Iterator[Row]]

PRELOADED = ["actors.rank.rank", "benchmarks.gpu.parts"]
"""Imported once, by the server."""

_ERROR_LINES = 12
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its work, and the seconds after which it is ended."""

    name: str
    seconds: float
    work: Work


@dataclass(frozen=True, slots=True)
class End:
    """How a part ended. ``error`` is None where it came to its end by itself."""

    seconds: float
    error: str | None = None


class _Failed(NamedTuple):
    error: str


def run(part: Part, setting: Setting, seconds: float) -> Iterator[Row | End]:
    """Run a part; yield its rows as they come and, at last, its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(part.work, setting, theirs))
    started = time.monotonic()
    process.start()
    theirs.close()
    try:
        error = yield from _rows(ours, started + seconds)
        if error == "":
            error = f"its process ended with code {_code(process)}"
    finally:
        _end(process)
        ours.close()
    yield End(time.monotonic() - started, error)


def _rows(pipe: Connection, deadline: float) -> Iterator[Row]:  # type: ignore[misc]
    """Yield rows; return None at the end of a part, or why there are no more; "" if it died."""
    while True:
        if not pipe.poll(max(deadline - time.monotonic(), 0.0)):
            return "not done at its deadline"
        try:
            message = pipe.recv()
        except EOFError:
            return ""
        if isinstance(message, Row):
            yield message
        else:
            return message.error if isinstance(message, _Failed) else None


def _code(process: "multiprocessing.process.BaseProcess") -> int | None:
    process.join(_PATIENCE)
    return process.exitcode


def _end(process: "multiprocessing.process.BaseProcess") -> None:
    """End a part's process and all processes of its group."""
    assert process.pid is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.join()


def _serve(work: Work, setting: Setting, pipe: Connection) -> None:
    """Do the work as the leader of a process group; send each row, then None or the failure."""
    os.setpgrp()
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    try:
        for row in work(setting):
            pipe.send(row)
        pipe.send(None)
    except BaseException:
        lines = traceback.format_exc().strip().splitlines()
        pipe.send(_Failed("\n".join(lines[-_ERROR_LINES:])))


def _end_with_parent(pipe: Connection) -> None:
    """Wait for the other end to close, then end this process group."""
    try:
        pipe.recv()
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)
