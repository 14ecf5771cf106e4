"""The licence of a model directory, as the directory itself says it; nothing is made up.

Asked in this order: the front matter of its README, the key ``license`` of its ``config.json``, the
first lines of its LICENSE. A licence that none of them names is ``unknown``, one whose file is
there and is not recognised is ``other``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe.checkpoint.card.front_matter import README, front_matter
from moe.config.json_file import read_json
from moe.errors import CheckpointError

UNKNOWN, OTHER = "unknown", "other"

_TITLES = (
    ("apache license version 2.0", "apache-2.0"),
    ("mit license", "mit"),
    ("permission is hereby granted, free of charge, to any person obtaining a copy", "mit"),
    ("gnu affero general public license version 3", "agpl-3.0"),
    ("gnu general public license version 3", "gpl-3.0"),
    ("creative commons attribution-noncommercial 4.0", "cc-by-nc-4.0"),
    ("creative commons attribution-sharealike 4.0", "cc-by-sa-4.0"),
    ("creative commons attribution 4.0", "cc-by-4.0"),
)
"""How the texts of common licences begin, and the hub's names of these."""

_BEGINNING = 600
"""Characters of a licence in which its title stands."""


@dataclass(frozen=True, slots=True)
class Licence:
    """The hub's name of a licence; of ``other``, its own name and link, if they were given.

    ``said_by`` is the file that says so; empty for ``unknown``.
    """

    identifier: str
    said_by: str = ""
    name: str = ""
    link: str = ""

    @property
    def table(self) -> dict[str, str]:
        """The keys of a front matter."""
        keys = {"license": self.identifier, "license_name": self.name, "license_link": self.link}
        return {key: value for key, value in keys.items() if value}


def licence_of(directory: Path) -> Licence:
    """Return the licence of a model directory."""
    table = front_matter(directory)
    said = _text(table.get("license"))
    if said and said != UNKNOWN:
        name, link = (_text(table.get(f"license_{key}")) for key in ("name", "link"))
        return Licence(said, README, name, link)
    try:
        said = _text(read_json(directory / "config.json").get("license"))
    except CheckpointError:
        said = ""
    if said:
        return Licence(said.lower(), "config.json")
    return _by_file(directory)


def common(licences: Sequence[Licence]) -> Licence:
    """Return the licence of something made of several; ``other`` where they differ."""
    if len({(each.identifier, each.name) for each in licences}) == 1:
        return licences[0]
    names = sorted({each.name or each.identifier for each in licences})
    return Licence(OTHER, "its sources", " and ".join(names))


def _by_file(directory: Path) -> Licence:
    for file in sorted([*directory.glob("LICENSE*"), *directory.glob("LICENCE*")]):
        if not file.is_file():
            continue
        with file.open(encoding="utf-8", errors="replace") as opened:
            begins = " ".join(opened.read(_BEGINNING).lower().split())
        found = next((name for title, name in _TITLES if title in begins), None)
        if found is not None:
            return Licence(found, file.name)
        return Licence(OTHER, file.name, link=file.name)
    return Licence(UNKNOWN)


def _text(value: Any) -> str:
    """Return a short text; a front matter may also give a list of licences."""
    if isinstance(value, list) and value:
        value = value[0] if len(value) == 1 else ", ".join(map(str, value))
    return value.strip()[:200] if isinstance(value, str) else ""
