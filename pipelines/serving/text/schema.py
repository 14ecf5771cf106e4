"""JSON schemas as a model is held to them: an object has the properties that are named, no others.

A schema that names properties and does not speak of others allows any. Small models then write keys
of their own until their limit. Every answer to the closed schema fits the schema that was given.
"""

from collections.abc import Mapping
from typing import Any

_SPEAKS_OF_OTHERS = frozenset(
    {
        "$ref",
        "additionalProperties",
        "allOf",
        "anyOf",
        "oneOf",
        "patternProperties",
        "unevaluatedProperties",
    }
)
"""Keys beside ``properties`` that allow other properties, or may."""

_DATA = frozenset({"const", "default", "enum", "examples"})
"""Keys whose values are no schemas."""

_BY_NAME = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)
"""Keys whose values have a schema for each of several names."""


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema whose objects have no other properties than those that it names.

    A schema that joins several by ``allOf`` stays as it is: closed, its parts exclude each other.
    """
    return dict(schema) if _joins(schema) else _closed(schema)


def _joins(value: Any) -> bool:
    if isinstance(value, list):
        return any(_joins(item) for item in value)
    if not isinstance(value, Mapping):
        return False
    several = isinstance(value.get("allOf"), list) and len(value["allOf"]) > 1
    return several or any(_joins(item) for item in value.values())


def _closed(value: Any) -> Any:
    if isinstance(value, list):
        return [_closed(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    table = {key: _closed_at(key, item) for key, item in value.items()}
    if isinstance(value.get("properties"), Mapping) and not (_SPEAKS_OF_OTHERS & value.keys()):
        table["additionalProperties"] = False
    return table


def _closed_at(key: str, value: Any) -> Any:
    """Return the value of a key of a schema."""
    if key in _BY_NAME and isinstance(value, Mapping):
        return {name: _closed(schema) for name, schema in value.items()}
    return value if key in _DATA else _closed(value)
