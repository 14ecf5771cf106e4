"""JSON patches (RFC 6902), as far as raymoe sends them: test, add, replace and remove."""

import copy
from typing import Any

Table = dict[str, Any]


def patched(table: Table, changes: list[Table]) -> Table | None:
    """Return the table after all changes; None where a test fails or a parent is not there."""
    found = copy.deepcopy(table)
    try:
        return found if all(_change(found, change) for change in changes) else None
    except (KeyError, IndexError):
        return None


def _change(table: Table, change: Table) -> bool:
    """Make one change; return whether it is no test that fails."""
    *parents, last = [
        part.replace("~1", "/").replace("~0", "~") for part in change["path"].split("/")[1:]
    ]
    node: Any = table
    for part in parents:
        node = node[int(part) if isinstance(node, list) else part]
    if change["op"] == "test":
        return bool(node[last] == change["value"])
    if change["op"] == "remove":
        del node[last]
    else:
        node[last] = change["value"]
    return True
