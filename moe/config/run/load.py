"""A run file to a RunConfig and back; every fault with its dotted key."""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from moe.config.assignment import fault, hint, value_of
from moe.config.run.balance import COEFFICIENTS
from moe.config.run.config import RunConfig
from moe.config.run.section import Section
from moe.errors import ConfigError

_COEFFICIENT = ("balance", "coefficient")


def load_run(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run file and apply ``section.key=value`` overrides; values are TOML, or bare text."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no run file at {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    for override in overrides:
        _override(table, override)
    return parse_run(table, str(path))


def parse_run(table: Mapping[str, Any], source: str) -> RunConfig:
    """Turn a table into a RunConfig; ConfigError lists every fault with its dotted key."""
    try:
        return RunConfig.model_validate(table)
    except ValidationError as error:
        faults = "\n".join(f"  {_fault(dict(entry))}" for entry in error.errors())
        raise ConfigError(f"{source} is not a run file:\n{faults}") from None


def dump_run(config: RunConfig) -> str:
    """Return the resolved run, defaults included, as JSON."""
    return json.dumps(config.model_dump(mode="json"), indent=2) + "\n"


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


def _fault(entry: Mapping[str, Any]) -> str:
    location: tuple[str, ...] = tuple(map(str, entry["loc"]))
    keys = location[:2] + location[3:] if location[:2] == _COEFFICIENT else location
    dotted = ".".join(keys) or "run"
    if entry["type"] == "extra_forbidden":
        return f"{dotted}: unknown key; {_hint(location)}"
    if entry["type"] == "missing":
        return f"{dotted}: missing; the run file must give it"
    return fault(dotted, entry)


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
