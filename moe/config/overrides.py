"""Parsing of ``key=value`` overrides, and wording of their faults, for runs and models."""

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

_BARE_POINT = re.compile(r"[+-]?(\d+\.|\.\d+)([eE][+-]?\d+)?")
"""Numbers that TOML does not allow but people write: ``1.`` and ``.001``."""


def value_of(written: str) -> Any:
    """Return the TOML value of a text, or the text itself if it is not TOML."""
    try:
        return tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        return float(written) if _BARE_POINT.fullmatch(written) else written


def hint(word: str, known: Collection[str]) -> str:
    """Return the nearest known word as a question, or the list of all known words."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def fault(key: str, entry: Mapping[str, Any]) -> str:
    """Return the fault that pydantic found in a key; tables are not quoted."""
    message = str(entry["msg"]).removeprefix("Value error, ")
    found = entry.get("input")
    shown = "" if isinstance(found, dict | BaseModel) else f"; found {found!r}"
    return f"{key}: {message}{shown}"
