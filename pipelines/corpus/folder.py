"""The files of a folder, links followed, in a fixed order."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from moe.errors import DataError


def find_files(
    inputs: Sequence[Path], what: str, suffixes: Collection[str], report: Callable[[str], None]
) -> list[Path]:
    """Return the files of some kinds among files and folders; ``report`` is told of the others.

    DataError where there is none, or a file of another kind was named.
    """
    files: list[Path] = []
    others: Counter[str] = Counter()
    kinds = ", ".join(suffixes)
    for path in inputs:
        if path.is_dir():
            for file in visible_files(path, report):
                if file.suffix.lower() in suffixes:
                    files.append(file)
                else:
                    others[file.suffix.lower() or file.name] += 1
        elif not path.exists():
            raise DataError(f"no file or directory at {path}")
        elif path.suffix.lower() not in suffixes:
            raise DataError(f"cannot read {what} from {path}; give files of {kinds}")
        else:
            files.append(path)
    listed = ", ".join(f"{kind} {count}" for kind, count in others.most_common(8))
    if not files:
        found = f"files of other kinds: {listed}" if others else "no files"
        asked = ", ".join(str(path) for path in inputs) or "nothing"
        raise DataError(f"no {what} in {asked}: found {found}; give files of {kinds}")
    if others:
        report(f"skipped {others.total()} files of other kinds: {listed}")
    return files


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
