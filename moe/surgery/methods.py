"""The methods by name."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from moe.errors import ConfigError
from moe.surgery.copies import Copy, Drop, Noise, VirtualGroup
from moe.surgery.cuts import Shared, Split
from moe.surgery.method import Method

METHODS: Mapping[str, Any] = {
    kind.name: kind for kind in (Copy, Noise, Drop, VirtualGroup, Split, Shared)
}


def method_named(name: str, options: Mapping[str, Any]) -> Method:
    """Return a method with its options; raises ConfigError for options that it does not read.

    None means that an option is not given.
    """
    if name not in METHODS:
        raise ConfigError(f"no method {name!r}; choose {', '.join(METHODS)}")
    given = {key: value for key, value in options.items() if value is not None}
    known = {field.name for field in fields(METHODS[name])}
    for key in given.keys() - known:
        readers = [other for other, kind in METHODS.items() if key in _names(kind)]
        raise ConfigError(
            f"the method {name} has no {key}, it would have no effect; remove it, or choose "
            f"{' or '.join(readers) or 'another option'}"
        )
    method: Method = METHODS[name](**given)
    return method


def _names(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}
