"""One resize of a cluster at a time: whoever resizes leaves a note on the RayCluster.

The note has an end, so that one whose process was killed holds nobody up for ever.
"""

import json
import time
from typing import Any

from cluster.kube.api import Api, Refusal
from cluster.kube.kinds import RAYCLUSTER

NOTE = "raymoe/resize"

Table = dict[str, Any]

_PATH = "/metadata/annotations/raymoe~1resize"
CHANGED = (409, 422)
"""How the API server refuses a patch of an object that is not as it was."""


def taken_by(cluster: Table, now: float | None = None) -> str | None:
    """Return the wish of whoever resizes the cluster now; None for nobody."""
    note = (cluster["metadata"].get("annotations") or {}).get(NOTE)
    if note is None:
        return None
    table = json.loads(note)
    return str(table["wish"]) if table["until"] > (time.time() if now is None else now) else None


def take(api: Api, cluster: Table, wish: str, seconds: float) -> bool:
    """Leave the note of a wish; False where the cluster has changed since it was looked at."""
    metadata = cluster["metadata"]
    version = {"op": "test", "path": "/metadata/resourceVersion"}
    changes: list[Table] = [version | {"value": metadata["resourceVersion"]}]
    if not metadata.get("annotations"):
        changes.append({"op": "add", "path": "/metadata/annotations", "value": {}})
    note = json.dumps({"wish": wish, "until": int(time.time() + seconds) + 1})
    changes.append({"op": "add", "path": _PATH, "value": note})
    try:
        api.patch(RAYCLUSTER, metadata["namespace"], metadata["name"], changes)
    except Refusal as refusal:
        if refusal.status in CHANGED:
            return False
        raise
    return True


def release(api: Api, cluster: Table) -> None:
    """Remove the note of a cluster as it was looked at; nothing where it is another's by now."""
    metadata = cluster["metadata"]
    note = (metadata.get("annotations") or {}).get(NOTE)
    if note is None:
        return
    changes: list[Table] = [
        {"op": "test", "path": _PATH, "value": note},
        {"op": "remove", "path": _PATH},
    ]
    try:
        api.patch(RAYCLUSTER, metadata["namespace"], metadata["name"], changes)
    except Refusal as refusal:
        if refusal.status not in (404, *CHANGED):
            raise
