"""What a container sees of the file system: that of this machine, with its volumes over it.

A path that is not there gets a place by an overlay over the nearest directory that is; nothing of
this machine is written to.
"""

import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or a directory in a container; without a source, a file system in memory."""

    path: str
    source: Path | None = None
    size: int | None = None
    """Bytes, of a file system in memory."""


def script(mounts: Iterable[Mount], scratch: Path) -> str:
    """Return the shell script that mounts, and then becomes the command that it is given."""
    return "\n".join(["set -e", *_lines(list(mounts), scratch), 'exec "$@"', ""])


def _lines(mounts: list[Mount], scratch: Path) -> Iterator[str]:
    yield f"mount -t tmpfs tmpfs {shlex.quote(str(scratch))}"
    missing = [each for each in mounts if not os.path.exists(each.path)]
    for number, folder in enumerate(sorted({_nearest(each.path) for each in missing})):
        upper, work = scratch / f"{number}-upper", scratch / f"{number}-work"
        yield f"mkdir {upper} {work}"
        yield (
            f"mount -t overlay overlay "
            f"-o lowerdir={folder},upperdir={upper},workdir={work} {folder}"
        )
    for each in missing:
        if each.source is None or each.source.is_dir():
            yield f"mkdir -p {each.path}"
        else:
            yield f"mkdir -p {os.path.dirname(each.path)}; touch {each.path}"
    for each in mounts:
        if each.source is None:
            size = f"-o size={each.size}" if each.size else ""
            yield f"mount -t tmpfs {size} tmpfs {each.path}"
        else:
            yield f"mount --bind {shlex.quote(str(each.source))} {each.path}"


def _nearest(path: str) -> str:
    """Return the directory of this machine over which an overlay makes room for a path."""
    folder = Path(path).parent
    while not folder.exists():
        folder = folder.parent
    found = str(folder.resolve())
    if found == "/":
        raise ValueError(f"{path} has no directory above it but the root; mount it under /srv")
    return found
