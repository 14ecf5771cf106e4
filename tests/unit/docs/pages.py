"""The pages that people read: README, CHANGELOG, CONTRIBUTING, docs and the table of benchmarks."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGES = ("moe", "actors", "cluster", "pipelines", "benchmarks")
FENCE = re.compile(r"^( *)```")


def pages() -> list[Path]:
    """Return every page, README first."""
    top = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    return [*top, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks" / "README.md"]


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page outside fenced code, with their numbers."""
    return ((number, line) for number, line, code in _lines(page) if not code)


def code(page: Path) -> Iterator[tuple[int, str]]:
    """Yield what a page shows as code: lines of blocks, and spans between backticks."""
    for number, line, fenced in _lines(page):
        if fenced or line.startswith("    "):
            yield number, line.strip()
        else:
            yield from ((number, span) for span in re.findall(r"`([^`]+)`", line))


def _lines(page: Path) -> Iterator[tuple[int, str, bool]]:
    fenced = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if FENCE.match(line):
            fenced = not fenced
        else:
            yield number, line, fenced
