"""Every relative link of a page leads to a file, and to a heading where it names one."""

import re
from pathlib import Path

import pytest

from tests.unit.docs.pages import ROOT, pages, prose

LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"^(?:\.?[a-z_]+/)+[\w.-]+\.(?:py|md|toml|yaml|json|svg|png)$")


def heading_anchor(line: str) -> str:
    """Return the anchor that a heading gets: lower case, hyphens for spaces, no punctuation."""
    text = re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower())
    return text.replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {heading_anchor(line) for _, line in prose(page) if line.startswith("#")}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for number, line in prose(page):
        for target in LINK.findall(line):
            if "://" in target or target.startswith("mailto:"):
                continue
            name, _, anchor = target.partition("#")
            there = (page.parent / name).resolve() if name else page
            if not there.exists() or (anchor and anchor not in anchors(there)):
                broken.append(f"line {number}: {target}")
    assert not broken


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    """Paths in backticks that begin with one of our folders."""
    folders = {each.name for each in ROOT.iterdir() if each.is_dir()} - {"demo", "runs"}
    named = {
        (number, span)
        for number, line in prose(page)
        for span in re.findall(r"`([^`\s]+)`", line)
        if FILE.match(span) and span.split("/")[0] in folders
    }
    assert not sorted(each for each in named if not (ROOT / each[1]).exists())
