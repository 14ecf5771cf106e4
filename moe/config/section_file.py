"""Reads a TOML file with overrides into typed sections; reports every fault by its dotted key.

This loader reads run files and deployment files, so both refuse a wrong key in the same words: the
dotted key, what was found, and the nearest known key. ``noun`` is the name of the file in messages,
"run file" or "deployment file"; its first word names a fault of the complete file.
"""

import copy
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, TypeVar, get_args

from pydantic import ValidationError

from moe.config.overrides import fault, hint, value_of
from moe.config.section import Section
from moe.errors import ConfigError

Root = TypeVar("Root", bound=Section)


class _Fault(NamedTuple):
    """One fault of a file: its dotted key (empty for the complete file) and its description."""

    key: str
    message: str


def load_sections(
    path: Path | None,
    root: type[Root],
    noun: str,
    overrides: Sequence[str] = (),
    over: Sequence[Path] = (),
) -> Root:
    """Read a file and apply ``section.key=value`` overrides; values are TOML, or bare text.

    Without a file, the overrides alone give the keys. Files ``over`` it change the keys that they
    give, one after the other, and leave the rest of each section as it was.

    ConfigError lists every fault; faults of overrides are listed separately.
    """
    table = {} if path is None else _read(path, noun)
    for layer in over:
        _lay(table, _read(layer, noun))
    changed = copy.deepcopy(table)
    for override in overrides:
        _override(changed, override)
    found, faults = _parsed(changed, root, noun)
    if found is not None:
        return found
    before = _parsed(table, root, noun)[1]
    old = [fault for fault in faults if fault in before]
    files = " with ".join(map(str, (path, *over)))
    refused = f"no {noun} is given" if path is None else f"{files} is not a {noun}"
    messages = [_listed(refused, old)] if old else []
    messages += [_of_overrides(fault, overrides) for fault in faults if fault not in old]
    raise ConfigError("\n".join(messages))


def parse_sections(table: Mapping[str, Any], root: type[Root], noun: str, source: str) -> Root:
    """Turn a table into typed sections; ConfigError lists every fault with its dotted key."""
    found, faults = _parsed(table, root, noun)
    if found is not None:
        return found
    raise ConfigError(_listed(f"{source} is not a {noun}", faults))


def _parsed(
    table: Mapping[str, Any], root: type[Root], noun: str
) -> tuple[Root | None, list[_Fault]]:
    """Return the sections of a table, or None and all faults of the table."""
    try:
        return root.model_validate(table), []
    except ValidationError as error:
        return None, [_fault(dict(entry), root, noun) for entry in error.errors()]


def _listed(refused: str, faults: Sequence[_Fault]) -> str:
    return f"{refused}:" + "".join(f"\n  {fault.message}" for fault in faults)


def _of_overrides(fault: _Fault, overrides: Sequence[str]) -> str:
    """Return a fault that comes from overrides, with the overrides of the same key."""
    same = [override for override in overrides if _touches(override, fault.key)]
    return f"{' '.join(f'--set {override}' for override in same or overrides)}: {fault.message}"


def _touches(override: str, key: str) -> bool:
    """Return whether an override sets a key, a part of it, or a section around it."""
    given = f"{override.partition('=')[0].strip()}."
    return given.startswith(f"{key}.") or f"{key}.".startswith(given)


def _read(path: Path, noun: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"no {noun} at {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _lay(table: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _lay(table[key], value)
        else:
            table[key] = value


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


def _fault(entry: Mapping[str, Any], root: type[Section], noun: str) -> _Fault:
    keys, container, kinds = _walk(root, tuple(map(str, entry["loc"])))
    key = ".".join(keys)
    if entry["type"] == "extra_forbidden":
        return _Fault(key, f"{key}: unknown key; {_hint(keys[-1], container, kinds)}")
    if entry["type"] == "missing":
        return _Fault(key, f"{key}: missing; the {noun} must give it")
    return _Fault(key, fault(key or noun.split()[0], entry))


def _hint(key: str, section: type[Section], kinds: Mapping[str, type[Section]]) -> str:
    """Return a suggestion for an unknown key; if another kind of section has the key, name that
    kind.
    """
    having = [kind for kind, other in kinds.items() if key in other.model_fields]
    if having:
        this = next(kind for kind, other in kinds.items() if other is section)
        return f"the type {' or '.join(having)} has it, this is {this}"
    return hint(key, sorted(section.model_fields))


def _walk(
    root: type[Section], location: tuple[str, ...]
) -> tuple[list[str], type[Section], Mapping[str, type[Section]]]:
    """Return the keys of a location as written in TOML, and the section that holds the last key.

    If a section is one of several kinds, pydantic's location also names the kind, which is not a
    key of the file; the kinds are returned too. Lists and named tables add an index or a name.
    """
    keys: list[str] = []
    annotation: Any = root
    section, kinds = root, dict[str, type[Section]]()
    for step in location:
        if _is_section(annotation):
            section, kinds = annotation, kinds if annotation in kinds.values() else {}
            keys.append(step)
            field = section.model_fields.get(step)
            annotation = None if field is None else _without_none(field.annotation)
        elif step in _kinds(annotation):
            kinds = _kinds(annotation)
            annotation = kinds[step]
        else:
            keys.append(step)
            annotation = next(filter(_is_section, get_args(annotation)), None)
    return keys, section, kinds


def _without_none(annotation: Any) -> Any:
    """Return the other member of a union with None; return any other type unchanged."""
    members = [each for each in get_args(annotation) if each is not NoneType]
    optional = NoneType in get_args(annotation) and len(members) == 1
    return members[0] if optional else annotation


def _kinds(annotation: Any) -> dict[str, type[Section]]:
    """Return the sections of a union by their ``type``; empty for other annotations."""
    return {
        str(name): each
        for each in filter(_is_section, get_args(annotation))
        if "type" in each.model_fields
        for name in get_args(each.model_fields["type"].annotation)
    }


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)
