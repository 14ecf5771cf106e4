"""The YAML at the head of a README, between two lines of three dashes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

README = "README.md"
_RULE = "---"
_MOST_BYTES = 2**20


def front_matter(directory: Path) -> dict[str, Any]:
    """Return the front matter of a directory's README; empty where there is none to read.

    What somebody else wrote may be anything: it is read without building objects, and no error of
    it stops a conversion.
    """
    try:
        with (directory / README).open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8-sig", errors="replace")
    except OSError:
        return {}
    lines = text.splitlines()
    if not lines or lines[0].strip() != _RULE:
        return {}
    end = next((n for n, each in enumerate(lines[1:], 1) if each.strip() == _RULE), None)
    if end is None:
        return {}
    try:
        table = yaml.safe_load("\n".join(lines[1:end]))
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return dict(table) if isinstance(table, dict) else {}


def with_front_matter(table: Mapping[str, Any], body: str) -> str:
    """Return the text of a README; keys keep their order."""
    head = yaml.safe_dump(dict(table), sort_keys=False, allow_unicode=True, width=100)
    return f"{_RULE}\n{head}{_RULE}\n\n{body}"
