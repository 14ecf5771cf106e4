"""Validates custom resources against their definitions the way an API server does.

First defaults are filled in, then fields that the schema does not know are refused, then types,
formats and required fields are checked, and last the CEL rules: those that compare with the object
as it was where it was one.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import cel
import jsonschema

from tests.manifests.definitions import definition

QUANTITY = re.compile(
    r"[+-]?([0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)(([KMGTPE]i)|[numkMGTPE]|[eE][+-]?[0-9]+)?"
)

Table = dict[str, Any]


@cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_as_json_schema(definition(kind)))


def faults(table: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> list[str]:
    """Return what an API server would refuse in the object, which was so ``before``."""
    kind = table["kind"]
    root, filled = definition(kind), with_defaults(table)
    found = [f"unknown field {path}" for path in _unknown(filled, root, "")]
    for error in _validator(kind).iter_errors(filled):
        found.append(f"{'.'.join(map(str, error.absolute_path))}: {error.message}")
    found += [f"bad quantity {path}" for path in _bad_quantities(filled, root, "")]
    return found + list(_rule_violations(filled, root, "", before))


def with_defaults(table: Mapping[str, Any]) -> Table:
    """Return the object with the defaults of its definition, as an API server stores it."""
    filled = copy.deepcopy(dict(table))
    _fill_defaults(filled, definition(filled["kind"]))
    return filled


def without_unknown(table: Mapping[str, Any]) -> Table:
    """Return the object without what its definition does not know, as a server drops it unasked."""
    pruned = copy.deepcopy(dict(table))
    _prune(pruned, definition(pruned["kind"]), "")
    return pruned


def _fill_defaults(value: Any, node: Table) -> None:
    if isinstance(value, dict):
        for key, child in node.get("properties", {}).items():
            if key not in value and "default" in child:
                value[key] = copy.deepcopy(child["default"])
    for child_value, child, _ in _children(value, node, ""):
        _fill_defaults(child_value, child)


def _unknown(value: Any, node: Table, path: str) -> Iterator[str]:
    yield from (f"{path}.{key}" for key in _strange(value, node, path))
    for child_value, child, child_path in _children(value, node, path):
        yield from _unknown(child_value, child, child_path)


def _prune(value: Any, node: Table, path: str) -> None:
    for key in _strange(value, node, path):
        del value[key]
    for child_value, child, child_path in _children(value, node, path):
        _prune(child_value, child, child_path)


def _strange(value: Any, node: Table, path: str) -> set[str]:
    """Return the keys of a table that its definition does not know."""
    closed = (
        isinstance(value, dict)
        and "properties" in node
        and not node.get("x-kubernetes-preserve-unknown-fields")
        and "additionalProperties" not in node
    )
    if not closed:
        return set()
    implied = {"apiVersion", "kind", "metadata"} if not path else set()
    return set(value.keys() - node["properties"].keys() - implied)


def _bad_quantities(value: Any, node: Table, path: str) -> Iterator[str]:
    """Yield resource amounts that Kubernetes cannot read; the pattern is in its code only."""
    if node.get("x-kubernetes-int-or-string") and isinstance(value, str):
        amount = path.rpartition(".")[0].rpartition(".")[2] in ("limits", "requests")
        if amount and not QUANTITY.fullmatch(value):
            yield f"{path}: {value}"
    for child_value, child, child_path in _children(value, node, path):
        yield from _bad_quantities(child_value, child, child_path)


def _rule_violations(value: Any, node: Table, path: str, before: Any) -> Iterator[str]:
    """Yield the rules that a value breaks; elements of lists have no value before."""
    known = {"self": value} | ({} if before is None else {"oldSelf": before})
    for entry in node.get("x-kubernetes-validations", ()):
        rule = entry["rule"]
        if ("oldSelf" in rule) <= ("oldSelf" in known) and cel.evaluate(rule, known) is not True:
            yield f"{path}: {entry.get('message', rule)}"
    for child_value, child, child_path in _children(value, node, path):
        there = isinstance(value, dict) and isinstance(before, dict)
        old = before.get(child_path.rpartition(".")[2]) if there else None
        yield from _rule_violations(child_value, child, child_path, old)


def _children(value: Any, node: Table, path: str) -> Iterator[tuple[Any, Table, str]]:
    if isinstance(value, dict):
        rest = node.get("additionalProperties")
        for key, child_value in value.items():
            child = node.get("properties", {}).get(key, rest if isinstance(rest, dict) else None)
            if child is not None:
                yield child_value, child, f"{path}.{key}"
    elif isinstance(value, list) and "items" in node:
        for index, item in enumerate(value):
            yield item, node["items"], f"{path}[{index}]"


def _as_json_schema(node: Any) -> Any:
    """Translate what OpenAPI in Kubernetes says differently: either-typed values and nulls."""
    if isinstance(node, list):
        return [_as_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    translated = {
        key: {name: _as_json_schema(child) for name, child in value.items()}
        if key == "properties"
        else _as_json_schema(value)
        for key, value in node.items()
        if not key.startswith("x-") and key != "description"
    }
    if node.get("x-kubernetes-int-or-string") is True:
        translated.pop("anyOf", None)
        translated["type"] = ["integer", "string"]
    if node.get("nullable") is True:
        translated["type"] = [translated["type"], "null"]
    return translated
