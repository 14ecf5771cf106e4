"""A call of a function, and what else a model says beside it."""

import json
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class Call:
    """A call; ``arguments`` are JSON."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{uuid4().hex[:24]}")


Piece = str | Call
"""A part of an answer: text, or a whole call."""


def call_of(value: Any) -> Call | None:
    """Return the call that a JSON value describes; None if it is no call.

    The arguments are called ``arguments`` or ``parameters``.
    """
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return Call(value["name"], written)
