"""The owner of a directory: only one run may keep its journal and checkpoints there."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.journal import JOURNAL
from moe.checkpoint.manifest import MANIFEST, checkpoints
from moe.config.json_file import read_json
from moe.config.run import RunConfig
from moe.errors import ConfigError
from moe.storage import Location, make_directory, write_text

OWNER = "owner.json"
"""File that names the run to which a directory belongs."""


def check_owner(run: RunConfig) -> None:
    """Raise ConfigError if a directory of this run already belongs to another run."""
    for key, directory in _directories(run).items():
        owner = _owner(directory)
        if owner not in (None, run.name):
            raise ConfigError(
                f"checkpoint.{key} {directory} belongs to the run {owner}, this run is {run.name}; "
                f"give another checkpoint.{key}"
            )


@contextmanager
def owned(run: RunConfig) -> Iterator[None]:
    """Claim the directories of a run within the block; a run that recorded nothing releases them.

    Raises ConfigError if another run has claimed one first.
    """
    check_owner(run)
    taken = [each for each in _directories(run).values() if _owner(each) is None]
    for directory in taken:
        make_directory(directory)
        _take(directory / OWNER, json.dumps({"run": run.name}) + "\n")
    check_owner(run)
    try:
        yield
    finally:
        if not (run.checkpoint.path / JOURNAL).exists():
            for directory in taken:
                _remove(directory / OWNER)


def _directories(run: RunConfig) -> dict[str, Location]:
    """Return the directories that a run writes, by their keys in [checkpoint]."""
    found: dict[str, Location] = {"path": run.checkpoint.path}
    if run.checkpoint.storage is not None:
        found["storage"] = run.checkpoint.location
    return found


def _owner(directory: Location) -> str | None:
    """Return the run that owns a directory: by the owner file, or by the checkpoints in it."""
    if (directory / OWNER).is_file():
        name = read_json(directory / OWNER).get("run")
    else:
        saved = checkpoints(directory)
        name = read_json(saved[-1] / MANIFEST).get("run", {}).get("name") if saved else None
    return None if name is None else str(name)


def _take(file: Location, text: str) -> None:
    """Write a file; on a local disk, fail if the file exists."""
    if not isinstance(file, Path):
        write_text(file, text)
        return
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        return


def _remove(file: Location) -> None:
    if isinstance(file, Path):
        file.unlink(missing_ok=True)
    elif file.exists():
        file.remove()
