"""The files of a folder, links followed, in a fixed order."""

from collections.abc import Callable, Iterator
from pathlib import Path

from moe.errors import DataError


def visible_files(folder: Path, report: Callable[[str], None]) -> Iterator[Path]:
    """Yield the files of a folder and of its subfolders, without hidden files and folders.

    A link to a folder is followed. Each folder is read once, also if several links lead to it; a
    link to an enclosing folder is skipped. ``report`` is called with a line about each skipped
    link.
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
            report(f"skipped {path}: the link leads to {path.readlink()}, which does not exist")


def _around(folder: Path) -> frozenset[Path]:
    real = folder.resolve()
    return frozenset((real, *real.parents))


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error
