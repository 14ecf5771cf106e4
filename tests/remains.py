"""What is there of a run that has ended, and should not be."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil
from ray._private.state import actors as actor_table
from ray.util import placement_group_table

PATIENCE = 15.0
"""Ray tells of the end of a process some time after it."""

HIDDEN = (".*.partial", ".faults-*")
"""Checkpoints that were being written, and marks of faults."""


def shared_memory() -> frozenset[str]:
    """Return the names in this machine's shared memory."""
    return frozenset(os.listdir("/dev/shm"))


def remains(
    name: str,
    folder: Path,
    before: frozenset[str] | None = None,
    more: Callable[[], Iterable[str]] = tuple,
) -> list[str]:
    """Return what is left of a run and does not go away soon: one line each.

    Actors, warm ones and the board too; their processes on this machine, also those that Ray has
    forgotten; reservations; hidden files below ``folder``, the directory of its checkpoints; and
    what is in shared memory and was not there ``before`` the run, where that is given. ``more``
    tells of what else must be gone.
    """
    deadline = time.monotonic() + PATIENCE
    while found := [*_found(name, folder, before), *more()]:
        if time.monotonic() > deadline:
            return found
        time.sleep(0.1)
    return []


def _found(name: str, folder: Path, before: frozenset[str] | None) -> Iterator[str]:
    own = [row for row in actor_table().values() if row["Name"].startswith(f"{name}/")]
    for row in own:
        if row["State"] != "DEAD":
            yield f"actor {row['Name']}, {row['State']}"
        elif _is_actor(row["Pid"], row["ActorClassName"]):
            yield f"process {row['Pid']} of actor {row['Name']}"
    for row in placement_group_table().values():
        if row["name"].startswith(f"{name}/") and row["state"] != "REMOVED":
            yield f"placement group {row['name']}, {row['state']}"
    for pattern in HIDDEN:
        for path in folder.rglob(pattern):
            yield f"file {path}"
    for each in shared_memory() - before if before is not None else ():
        yield f"shared memory {each}"


def _is_actor(pid: int, of_class: str) -> bool:
    """Tell whether a process is still one of a class of actors; numbers are used again."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and f"ray::{of_class}" in " ".join(
            process.cmdline()
        )
    except psutil.Error:
        return False
