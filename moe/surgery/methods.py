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
    method: Method = read_only_by(METHODS, name, options)
    return method


def read_only_by(methods: Mapping[str, Any], name: str, options: Mapping[str, Any]) -> Any:
    """Return a method of some by its name, with the options that are not None; ConfigError for
    options that it does not read.
    """
    if name not in methods:
        raise ConfigError(f"no method {name!r}; choose {', '.join(methods)}")
    given = {key: value for key, value in options.items() if value is not None}
    known = {field.name for field in fields(methods[name])}
    for key in given.keys() - known:
        readers = [other for other, kind in methods.items() if key in _names(kind)]
        raise ConfigError(
            f"the method {name} has no {key}, it would have no effect; remove it, or choose "
            f"{' or '.join(readers) or 'another option'}"
        )
    return methods[name](**given)


def _names(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}
