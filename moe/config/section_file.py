"""A TOML file to the sections it is made of, with overrides; every fault with its dotted key.

Run files and deployment files are read by this one loader, so both refuse a wrong key in the same
words: the dotted key, what was found, and the nearest key that exists. ``noun`` is what messages
call such a file, its first word what they call a fault of the whole: "run file", "deployment file".
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from moe.config.assignment import fault, hint, value_of
from moe.config.section import Section
from moe.errors import ConfigError

Root = TypeVar("Root", bound=Section)


def load_sections(path: Path, root: type[Root], noun: str, overrides: Iterable[str] = ()) -> Root:
    """Read a file and apply ``section.key=value`` overrides; values are TOML, or bare text."""
    table, given = _read(path, noun), tuple(overrides)
    for override in given:
        _override(table, override)
    source = f"{path} with --set {' --set '.join(given)}" if given else str(path)
    return parse_sections(table, root, noun, source)


def parse_sections(table: Mapping[str, Any], root: type[Root], noun: str, source: str) -> Root:
    """Turn a table into its sections; ConfigError lists every fault with its dotted key."""
    try:
        return root.model_validate(table)
    except ValidationError as error:
        faults = "\n".join(f"  {_fault(dict(entry), root, noun)}" for entry in error.errors())
        raise ConfigError(f"{source} is not a {noun}:\n{faults}") from None


def _read(path: Path, noun: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no {noun} at {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


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


def _fault(entry: Mapping[str, Any], root: type[Section], noun: str) -> str:
    keys, container, kinds = _walk(root, tuple(map(str, entry["loc"])))
    dotted = ".".join(keys) or noun.split()[0]
    if entry["type"] == "extra_forbidden":
        return f"{dotted}: unknown key; {_hint(keys[-1], container, kinds)}"
    if entry["type"] == "missing":
        return f"{dotted}: missing; the {noun} must give it"
    return fault(dotted, entry)


def _hint(key: str, section: type[Section], kinds: Mapping[str, type[Section]]) -> str:
    """Return what an unknown key may have meant; a key of another kind says of which."""
    having = [kind for kind, other in kinds.items() if key in other.model_fields]
    if having:
        this = next(kind for kind, other in kinds.items() if other is section)
        return f"the type {' or '.join(having)} has it, this is {this}"
    return hint(key, sorted(section.model_fields))


def _walk(
    root: type[Section], location: tuple[str, ...]
) -> tuple[list[str], type[Section], Mapping[str, type[Section]]]:
    """Return the keys of a location as people write them, and the section that holds the last.

    Where a section is one of several kinds, pydantic's location also names the kind, which is no
    key of the file; the kinds are returned too. Lists and tables by name add an index or a name.
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
    """Return the other member of a union with None, and anything else as it is."""
    members = [each for each in get_args(annotation) if each is not NoneType]
    optional = NoneType in get_args(annotation) and len(members) == 1
    return members[0] if optional else annotation


def _kinds(annotation: Any) -> dict[str, type[Section]]:
    """Return the sections of a union by the ``type`` that names each; empty for other values."""
    return {
        str(name): each
        for each in filter(_is_section, get_args(annotation))
        if "type" in each.model_fields
        for name in get_args(each.model_fields["type"].annotation)
    }


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)
