"""Which objects are closed, and which stay open."""

from typing import Any

import pytest

from pipelines.serving.text.schema import closed

NAMED: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
CLOSED = NAMED | {"additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        (NAMED, CLOSED),
        ({"type": "object"}, {"type": "object"}),
        (NAMED | {"additionalProperties": True}, NAMED | {"additionalProperties": True}),
        (NAMED | {"patternProperties": {"x": {}}}, NAMED | {"patternProperties": {"x": {}}}),
        (NAMED | {"anyOf": [NAMED]}, NAMED | {"anyOf": [CLOSED]}),
        ({"$defs": {"b": NAMED}, "items": [NAMED]}, {"$defs": {"b": CLOSED}, "items": [CLOSED]}),
        ({"properties": {"properties": NAMED}}, {
            "properties": {"properties": CLOSED}, "additionalProperties": False
        }),
        ({"enum": [NAMED], "const": NAMED}, {"enum": [NAMED], "const": NAMED}),
        ({"allOf": [{"$ref": "#/$defs/b"}], "$defs": {"b": NAMED}},
         {"allOf": [{"$ref": "#/$defs/b"}], "$defs": {"b": CLOSED}}),
        ({"allOf": [NAMED, NAMED]}, {"allOf": [NAMED, NAMED]}),
        ({"items": {"allOf": [NAMED, NAMED]}, "not": NAMED},
         {"items": {"allOf": [NAMED, NAMED]}, "not": NAMED}),
    ],
)  # fmt: skip
def test_objects_that_name_their_properties_have_no_others(schema: Any, found: Any) -> None:
    before = repr(schema)
    assert closed(schema) == found
    assert repr(schema) == before
