"""The processes of a soak, wherever they hang in the tree: all inherit a mark in their environment.

A node that is killed leaves its processes to init, so the tree alone would not show them.
"""

import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

MARK = "RAYMOE_SOAK"
ROLES = {"RankActor": "rank", "RayTrainWorker": "driver"}
"""Whose memory is followed, by the class that Ray names in the title of the process."""
STAYING = ("IDLE", "_AutoscalingCoordinatorActor", "TrainStateActor")
"""What Ray, and Ray Train, keep from the first run until the cluster ends."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process had at a moment: bytes of its own, open files and sockets."""

    seconds: float
    pid: int
    role: str
    memory: int
    files: int


def mark() -> None:
    """Mark every process that this one starts from now on."""
    os.environ[MARK] = secrets.token_hex(8)


def marked() -> Iterator[psutil.Process]:
    """Yield the marked processes that live, without this one."""
    for process in psutil.process_iter():
        try:
            if (
                process.pid != os.getpid()
                and process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get(MARK) == os.environ[MARK]
            ):
                yield process
        except psutil.Error:
            continue


def title(process: psutil.Process) -> str:
    """Return what a process calls itself, in a few words; empty once it has ended."""
    try:
        return " ".join(process.cmdline())[:80]
    except psutil.Error:
        return ""


def samples() -> list[Sample]:
    """Return what the ranks and the driver of the run have now."""
    found = []
    for process in marked():
        role = next((role for name, role in ROLES.items() if name in title(process)), None)
        if role is None:
            continue
        try:
            memory, files = process.memory_full_info().uss, process.num_fds()
        except psutil.Error:
            continue
        found.append(Sample(time.monotonic(), process.pid, role, memory, files))
    return found


def at_work() -> list[str]:
    """Return the processes that do something for a run: those of Ray's actors and tasks."""
    titles = map(title, marked())
    return [each for each in titles if each.startswith("ray::") and not _stays(each)]


def orphans() -> list[str]:
    """Return the processes that outlived the node that had started them."""
    return [_described(process) for process in marked() if _forsaken(process)]


def _stays(title: str) -> bool:
    return any(name in title for name in STAYING)


def _described(process: psutil.Process) -> str:
    try:
        age = time.time() - process.create_time()
        return f"{title(process).strip()} {process.pid}, {process.status()}, {age:.0f} s old"
    except psutil.Error:
        return title(process)


def _forsaken(process: psutil.Process) -> bool:
    try:
        return title(process).startswith("ray::") and process.ppid() == 1
    except psutil.Error:
        return False
