"""The files of a folder, links followed, in an order that never varies."""

from collections.abc import Callable, Iterator
from pathlib import Path

from moe.errors import DataError


def visible_files(folder: Path, report: Callable[[str], None]) -> Iterator[Path]:
    """Yield the files of a folder and of all folders in it, but for hidden ones.

    A link to a folder is followed. Each folder is read once, however many links lead to it, and a
    link that leads back to a folder around it is left out. ``report`` is told of links left out.
    """
    seen: set[Path] = set()
    yield from _files(folder, _around(folder), seen, report)


def _files(
    folder: Path, around: frozenset[Path], seen: set[Path], report: Callable[[str], None]
) -> Iterator[Path]:
    seen.add(folder.resolve())
    for path in _listed(folder):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            real = path.resolve()
            if real in around:
                report(f"skipped {path}: the link leads back to {real}")
            elif real not in seen:
                yield from _files(path, around | {real}, seen, report)
        elif path.is_file():
            yield path
        elif path.is_symlink():
            report(f"skipped {path}: the link leads to {path.readlink()}, which is not there")


def _around(folder: Path) -> frozenset[Path]:
    real = folder.resolve()
    return frozenset((real, *real.parents))


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error
