"""A run file to a RunConfig and back; every fault with its dotted key."""

import copy
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from moe.config.overrides import fault, hint, value_of
from moe.config.run.balance import COEFFICIENTS
from moe.config.run.config import RunConfig
from moe.config.run.section import Section
from moe.errors import ConfigError

_COEFFICIENT = ("balance", "coefficient")


class _Fault(NamedTuple):
    """One fault of a run: the dotted key it is about, empty for the whole, and what to tell."""

    key: str
    told: str


def load_run(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file and apply ``section.key=value`` overrides; values are TOML, or bare text.

    ConfigError lists every fault, those of the file apart from those that an override brought.
    """
    table = _read(path)
    changed = copy.deepcopy(table)
    for override in overrides:
        _override(changed, override)
    faults = _faults(changed)
    if isinstance(faults, RunConfig):
        return faults
    before = _faults(table)
    old = [] if isinstance(before, RunConfig) else [fault for fault in faults if fault in before]
    told = [_listed(str(path), old)] if old else []
    told += [_of_overrides(fault, overrides) for fault in faults if fault not in old]
    raise ConfigError("\n".join(told))


def parse_run(table: Mapping[str, Any], source: str) -> RunConfig:
    """Turn a table into a RunConfig; ConfigError lists every fault with its dotted key."""
    faults = _faults(table)
    if isinstance(faults, RunConfig):
        return faults
    raise ConfigError(_listed(source, faults))


def dump_run(config: RunConfig) -> str:
    """Return the resolved run, defaults included, as JSON."""
    return json.dumps(config.model_dump(mode="json"), indent=2) + "\n"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"no run file at {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _faults(table: Mapping[str, Any]) -> RunConfig | list[_Fault]:
    """Return the run that a table is, or else all that is wrong with it."""
    try:
        return RunConfig.model_validate(table)
    except ValidationError as error:
        return [_fault(dict(entry)) for entry in error.errors()]


def _listed(source: str, faults: Sequence[_Fault]) -> str:
    return f"{source} is not a run file:" + "".join(f"\n  {fault.told}" for fault in faults)


def _of_overrides(fault: _Fault, overrides: Sequence[str]) -> str:
    """Return a fault that the file alone does not have, after the overrides of the same key."""
    same = [override for override in overrides if _touches(override, fault.key)]
    return f"{' '.join(f'--set {override}' for override in same or overrides)}: {fault.told}"


def _touches(override: str, key: str) -> bool:
    """Tell whether an override gives a key, a part of it, or a section around it."""
    given = f"{override.partition('=')[0].strip()}."
    return given.startswith(f"{key}.") or f"{key}.".startswith(given)


def _override(table: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not all(dotted.split(".")):
        raise ConfigError(f"--set {override}: expected section.key=value")
    *sections, key = dotted.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {section} is a value, not a section")
    table[key] = value_of(text.strip())


def _fault(entry: Mapping[str, Any]) -> _Fault:
    location: tuple[str, ...] = tuple(map(str, entry["loc"]))
    keys = location[:2] + location[3:] if location[:2] == _COEFFICIENT else location
    key = ".".join(keys)
    if entry["type"] == "extra_forbidden":
        return _Fault(key, f"{key}: unknown key; {_hint(location)}")
    if entry["type"] == "missing":
        return _Fault(key, f"{key}: missing; the run file must give it")
    return _Fault(key, fault(key or "run", entry))


def _hint(location: tuple[str, ...]) -> str:
    """Return what an unknown key may have meant; one of another coefficient says of which."""
    *path, key = location
    having = [kind for kind, section in COEFFICIENTS.items() if key in section.model_fields]
    if tuple(path[:2]) == _COEFFICIENT and having:
        return f"the type {' or '.join(having)} has it, this is {path[2]}"
    return hint(key, sorted(_section(path).model_fields))


def _section(path: Sequence[str]) -> type[Section]:
    """Return the section that a path leads to; the kind of a coefficient is part of the path."""
    section: Any = RunConfig
    for depth, name in enumerate(path):
        kinds = tuple(path[:depth]) == _COEFFICIENT
        section = COEFFICIENTS[name] if kinds else section.model_fields[name].annotation
    return cast(type[Section], section)
