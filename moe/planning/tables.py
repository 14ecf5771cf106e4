"""TOML files of this room, read strictly: every fault is a PlanError that names the key."""

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from moe.errors import PlanError

Value = TypeVar("Value")


def read(path: Path, what: str, parse: Callable[[Mapping[str, Any]], Value], remedy: str) -> Value:
    """Read a file and parse its table; ``remedy`` says how to come by a good one."""
    try:
        return parse(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except FileNotFoundError:
        raise PlanError(f"no {what} at {path}; {remedy}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} is not TOML: {error}; {remedy}") from error
    except OSError as error:
        raise PlanError(f"cannot read the {what} {path}: {error.strerror}") from error
    except PlanError as error:
        raise PlanError(f"{what} {path}: {error}") from None


def write(table: Mapping[str, Any], path: Path, what: str) -> None:
    """Write a table as TOML."""
    try:
        path.write_text(tomli_w.dumps(table), encoding="utf-8")
    except OSError as error:
        raise PlanError(f"cannot write the {what} to {path}: {error.strerror}") from error


def check_keys(
    label: str, table: Mapping[str, Any], required: Iterable[str], optional: Iterable[str] = ()
) -> None:
    """Refuse a key that is not known and name the nearest; refuse a table that lacks one."""
    needed = list(required)
    known = [*needed, *optional]
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
            raise PlanError(f"{label}: unknown key {key}; {hint}")
    for key in needed:
        if key not in table:
            raise PlanError(f"{label}: {key} is missing; give it a value")


def text(label: str, key: str, value: Any) -> str:
    """Return a value that must be text."""
    if not isinstance(value, str):
        raise PlanError(f"{label}: {key} is {value!r}; expected text in quotes")
    return value


def whole(label: str, key: str, value: Any) -> int:
    """Return a value that must be a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise PlanError(f"{label}: {key} is {value!r}; expected a whole number")
    return value


def number(label: str, key: str, value: Any) -> float:
    """Return a value that must be a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PlanError(f"{label}: {key} is {value!r}; expected a number")
    return float(value)


def wholes(label: str, key: str, value: Any) -> tuple[int, ...]:
    """Return a value that must be a list of whole numbers."""
    if not isinstance(value, list | tuple):
        raise PlanError(f"{label}: {key} is {value!r}; expected a list of whole numbers")
    return tuple(whole(label, key, entry) for entry in value)


def texts(label: str, key: str, value: Any) -> tuple[str, ...]:
    """Return a value that must be a list of texts."""
    if not isinstance(value, list | tuple):
        raise PlanError(f"{label}: {key} is {value!r}; expected a list of texts in quotes")
    return tuple(text(label, key, entry) for entry in value)


def amounts(label: str, key: str, value: Any) -> tuple[tuple[str, float], ...]:
    """Return a value that must be a table of numbers, as pairs in its order."""
    table = _table(label, key, value, "numbers")
    return tuple((name, number(f"{label} {key}", name, each)) for name, each in table.items())


def words(label: str, key: str, value: Any) -> tuple[tuple[str, str], ...]:
    """Return a value that must be a table of texts, as pairs in its order."""
    table = _table(label, key, value, "texts")
    return tuple((name, text(f"{label} {key}", name, each)) for name, each in table.items())


def _table(label: str, key: str, value: Any, of: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise PlanError(f"{label}: {key} is {value!r}; expected a table of {of}")
    return value


def span(label: str, key: str, value: Any) -> tuple[int, int]:
    """Return a value that must be a half-open span, [start, stop]."""
    ends = wholes(label, key, value)
    if len(ends) != 2:
        raise PlanError(f"{label}: {key} is {value!r}; expected two whole numbers, [start, stop]")
    return ends[0], ends[1]


def entries(label: str, key: str, value: Any) -> tuple[Mapping[str, Any], ...]:
    """Return a value that must be a list of tables."""
    listed = isinstance(value, list | tuple)
    if not listed or not all(isinstance(entry, Mapping) for entry in value):
        raise PlanError(f"{label}: {key} is not a list of tables; write each under [[{key}]]")
    return tuple(value)
