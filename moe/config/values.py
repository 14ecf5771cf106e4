"""Values of a ``config.json``, checked against the type of their key."""

from collections.abc import Mapping
from math import inf
from typing import Any

from moe.errors import ConfigError

Table = Mapping[str, Any]


def count(table: Table, key: str, default: int | None = None, zero: bool = False) -> int:
    """Return an integer above 0, or also 0 with ``zero``; ``default`` if absent or null."""
    value: Any = table[key] if default is None else table.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < (0 if zero else 1):
        raise _wrong(key, value, f"a whole number {'not below' if zero else 'above'} 0")
    return value


def number(table: Table, key: str, default: float | None = None, zero: bool = False) -> float:
    """Return a finite number above 0, or also 0 with ``zero``; ``default`` if absent or null."""
    value: Any = table[key] if default is None else table.get(key)
    if value is None and default is not None:
        return default
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not (0 < value < inf or (zero and value == 0)):
        raise _wrong(key, value, f"a finite number {'not below' if zero else 'above'} 0")
    return float(value)


def flag(table: Table, key: str) -> bool:
    """Return true or false; false if the key is absent or null."""
    value = table.get(key)
    if value is not None and not isinstance(value, bool):
        raise _wrong(key, value, "true or false")
    return bool(value)


def token(table: Table, key: str) -> int | None:
    """Return a token number, or None; some models write -1 for no token."""
    value = table.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise _wrong(key, value, "a token number or null")
    return value


def tokens(table: Table, key: str) -> tuple[int, ...]:
    """Return token numbers, written as one number, as a list, or as null for none."""
    found = table.get(key)
    listed = found if isinstance(found, list) else [found]
    read = [token({key: each}, key) for each in listed]
    return tuple(each for each in read if each is not None)


def require(table: Table, key: str, value: Any) -> None:
    """Raise ConfigError if a key has a value that raymoe does not compute."""
    found = table.get(key, value)
    if found != value:
        raise ConfigError(f"config.json has {key} = {found!r}; raymoe computes only {value!r}")


def _wrong(key: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(f"config.json has {key} = {value!r}; expected {expected}")
