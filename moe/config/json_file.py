"""A JSON object of a model directory; no torch."""

import json
from typing import Any

from moe.config.stand_ins import what_stands_for
from moe.errors import CheckpointError
from moe.storage import Location


def read_json(path: Location) -> dict[str, Any]:
    """Return the JSON object in a file, which may begin with a byte-order mark."""
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise CheckpointError(
            what_stands_for(path) or f"{path} is missing; {path.parent} is not a model directory"
        ) from None
    except (ValueError, OSError) as error:
        raise CheckpointError(what_stands_for(path) or f"{path} cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return table
