"""A run file to a RunConfig and back; every fault with its dotted key."""

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from moe.config.run.balance import Coefficient
from moe.config.run.config import RunConfig
from moe.config.run.section import Section
from moe.errors import ConfigError

_TYPES = ("adaptive", "fixed", "bias")


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
    table[key] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _fault(entry: Mapping[str, Any]) -> str:
    location = [str(part) for part in entry["loc"] if part not in _TYPES]
    dotted = ".".join(location) or "run"
    if entry["type"] == "extra_forbidden":
        return f"{dotted}: unknown key{_nearest(location)}"
    if entry["type"] == "missing":
        return f"{dotted}: missing; the run file must give it"
    message = str(entry["msg"]).removeprefix("Value error, ")
    found = entry.get("input")
    shown = "" if isinstance(found, dict | Section) else f"; found {found!r}"
    return f"{dotted}: {message}{shown}"


def _nearest(location: list[str]) -> str:
    fields = _fields(RunConfig, location[:-1])
    close = difflib.get_close_matches(location[-1], fields, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known keys: {', '.join(sorted(fields))}"


def _fields(section: type[Section], location: list[str]) -> list[str]:
    for name in location:
        annotation = section.model_fields[name].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, Section)):
            return sorted({field for kind in get_args(Coefficient) for field in kind.model_fields})
        section = annotation
    return list(section.model_fields)
