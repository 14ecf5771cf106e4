"""How a request changes an object, and what KubeRay's definitions refuse of the result."""

import copy
from dataclasses import dataclass
from typing import Any

import jsonpatch

from tests.kube.store import Key, Store, Table
from tests.manifests.definitions import PLURALS
from tests.manifests.schema import faults, with_defaults, without_unknown

KINDS = {plural: kind for kind, plural in PLURALS.items()}
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON = "application/json-patch+json"

_SYSTEM = ("uid", "creationTimestamp", "deletionTimestamp", "generation", "resourceVersion")
_WITH_STATUS = (*KINDS, "pods", "jobs")
"""Kinds whose status is written apart from the rest of the object."""


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Change:
    """A request that changes one object; ``part`` is status or nothing, ``content`` of a patch."""

    key: Key
    part: str
    body: Any
    content: str = ""
    manager: str | None = None
    strict: bool = False
    dry: bool = False


def created(store: Store, change: Change) -> Table:
    """Make an object; 409 where there is one."""
    metadata = change.body.setdefault("metadata", {})
    if "name" not in metadata:
        metadata["name"] = f"{metadata['generateName']}{store.version:05x}"
    key = (*change.key[:3], str(metadata["name"]))
    if key in store.objects:
        raise Refused(409, f'{key[1]} "{key[3]}" already exists')
    metadata.setdefault("namespace", key[2])
    return store.write(key, _checked(key, change.body, None, change.strict))


def replaced(store: Store, change: Change) -> Table:
    """Put an object in the place of another that is as it was when it was read."""
    before = there(store, change.key)
    read = change.body.get("metadata", {}).get("resourceVersion")
    if read is not None and read != before["metadata"]["resourceVersion"]:
        raise Refused(409, f'{change.key[1]} "{change.key[3]}": the object has been modified')
    return _written(store, change, before, copy.deepcopy(change.body))


def patched(store: Store, change: Change) -> tuple[Table, int]:
    """Change an object by a patch; return it, and the status of the answer."""
    if change.content == APPLY:
        return _applied(store, change)
    before = there(store, change.key)
    return _written(store, change, before, _patch(change, before)), 200


def there(store: Store, key: Key) -> Table:
    """Return an object; 404 where there is none."""
    if key not in store.objects:
        raise Refused(404, f'{key[1]} "{key[3]}" not found')
    return store.objects[key]


def _patch(change: Change, before: Table) -> Table:
    if change.content in (MERGE, STRATEGIC):
        return dict(_merge(before, change.body))
    if change.content != JSON:
        raise Refused(415, f"media type {change.content} is not served here")
    try:
        return dict(jsonpatch.apply_patch(before, change.body))
    except jsonpatch.JsonPatchTestFailed as error:
        raise Refused(422, f"the test of a patch failed: {error}") from error
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        raise Refused(422, f"the patch does not fit the object: {error}") from error


def _merge(before: Any, patch: Any) -> Any:
    """Return a value after a merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    table = copy.deepcopy(before) if isinstance(before, dict) else {}
    for key, value in patch.items():
        if value is None:
            table.pop(key, None)
        else:
            table[key] = _merge(table.get(key), value)
    return table


def _written(store: Store, change: Change, before: Table, wished: Table) -> Table:
    """Store what of a wish its request may change, if that changes anything."""
    apart = change.key[1] in _WITH_STATUS
    if change.part == "status":
        after = before | {"status": wished.get("status", {})}
    else:
        after = wished | ({"status": before["status"]} if apart and "status" in before else {})
    kept = {key: value for key, value in before["metadata"].items() if key in _SYSTEM}
    after["metadata"] = dict(after["metadata"]) | kept
    if after == before:
        return before
    after = _checked(change.key, after, before, change.strict)
    return after if change.dry or after == before else store.write(change.key, after)


def _applied(store: Store, change: Change) -> tuple[Table, int]:
    """Merge an object by server-side apply: the manager owns what it wishes, and nothing else."""
    if not change.manager:
        raise Refused(400, "fieldManager is required for apply patch")
    key, before = change.key, store.objects.get(change.key)
    merged = _owning(before or {}, change.body, store.applied.get(key, {}))
    merged.setdefault("metadata", {}).setdefault("namespace", key[2])
    merged = _checked(key, merged, before, change.strict)
    if change.dry:
        return merged, 200 if before else 201
    store.applied[key] = copy.deepcopy(change.body)
    if before is not None and before == merged:
        return before, 200
    return store.write(key, merged), 200 if before else 201


def _owning(there: Any, wished: Any, owned: Any) -> Any:
    """Return an object with the wished fields; what was wished before and is not now is removed."""
    if not (isinstance(there, dict) and isinstance(wished, dict)):
        return copy.deepcopy(wished)
    before = owned if isinstance(owned, dict) else {}
    kept = {key: each for key, each in there.items() if key in wished or key not in before}
    return copy.deepcopy(kept) | {
        key: _owning(there.get(key), each, before.get(key)) for key, each in wished.items()
    }


def _checked(key: Key, table: Table, before: Table | None, strict: bool) -> Table:
    """Return an object of KubeRay as its definition stores it; others as they are."""
    if key[1] not in KINDS:
        return table
    known = with_defaults(table if strict else without_unknown(table))
    if found := faults(known, before):
        unknown = [each for each in found if each.startswith("unknown field")]
        words = "strict decoding error" if unknown else f"{KINDS[key[1]]} is invalid"
        raise Refused(400 if unknown else 422, f"{words}: {'; '.join((unknown or found)[:3])}")
    return known
