"""A part of the check in a process of its own, ended at its deadline with all that it started.

A part that hangs, or that leaves a CUDA context dead, costs nothing but itself. Processes are
forked from a server that has imported torch and the ranks, but has never touched CUDA, so a part
begins within milliseconds.
"""

import gc
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

from actors.crew.process import PRELOADED
from benchmarks.gpu.rows import Row, Setting

Work = Callable[[Setting], Iterator[Row]]

START_SECONDS = 120.0
"""Until a process is there; the first waits for the server and all that it imports."""

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


class _Done(NamedTuple):
    """Sent at the end; ``_Begun`` at the beginning."""


class _Begun(NamedTuple):
    """Sent when the process is there: the time of a part counts from here."""


def run(part: Part, setting: Setting, seconds: float) -> Iterator[Row | End]:
    """Run a part; yield its rows as they come and, at last, its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, "benchmarks.gpu.parts"])
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(part.work, setting, theirs))
    process.start()
    theirs.close()
    started, error = time.monotonic(), None
    deadline = started + START_SECONDS
    try:
        while not isinstance(message := _received(ours, deadline), _Done):
            if isinstance(message, _Begun):
                started = time.monotonic()
                deadline = started + seconds
            else:
                yield message
    except _Broken as broken:
        error = str(broken) or f"its process ended with code {_code(process)}"
    finally:
        _end(process)
        ours.close()
    yield End(time.monotonic() - started, error)


class _Broken(Exception):
    """A part that will send nothing more: why, or nothing if its process ended by itself."""


def _received(pipe: Connection, deadline: float) -> "Row | _Begun | _Done":
    if not pipe.poll(max(deadline - time.monotonic(), 0.0)):
        raise _Broken("not done at its deadline")
    try:
        message: Row | _Begun | _Done | _Failed = pipe.recv()
    except (EOFError, OSError):
        raise _Broken from None
    if isinstance(message, _Failed):
        raise _Broken(message.error)
    return message


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
    process.join(_PATIENCE)  # a driver may hold a process that was killed


def _serve(work: Work, setting: Setting, pipe: Connection) -> None:
    """Do the work as the leader of a process group; send each row, and how it ended."""
    gc.freeze()  # what the server imported is alive for good, and takes long to look through
    os.setpgrp()
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    try:
        pipe.send(_Begun())
        for row in work(setting):
            pipe.send(row)
        pipe.send(_Done())
    except BaseException:
        lines = traceback.format_exc().strip().splitlines()
        pipe.send(_Failed("\n".join(lines[-_ERROR_LINES:])))


def _end_with_parent(pipe: Connection) -> None:
    """Wait for the other end to close, then end this process group."""
    try:
        pipe.recv()
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)
