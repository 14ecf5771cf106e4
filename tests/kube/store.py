"""What an API server in memory keeps: objects, their versions, and all that happened to them.

Deletion is as in Kubernetes: finalizers hold an object, who asks for it waits for what an object
owns, and what has lost its owner goes. Tests play controllers and people by writing objects.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Any

Table = dict[str, Any]
Key = tuple[str, str, str, str]
"""Group with version, plural, namespace, name."""

CLUSTER_WIDE = ("nodes", "storageclasses", "customresourcedefinitions")
FOREGROUND = "foregroundDeletion"
KEPT = 5000
"""Events that are kept; who asks for what was before them has come too late."""


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to an object: ADDED, MODIFIED or DELETED, and how it was afterwards."""

    version: int
    type: str
    key: Key
    table: Table


@dataclass
class Store:
    """The objects, who may not do what, and what is to go wrong.

    ``faults`` are answers that the server gives in place of the true ones, 0 for a true one; a
    negative one breaks the connection. ``kubelets``: pods end when their kubelet says so.
    ``logs`` are texts, or files with them, by the name of the pod; ``ports`` are those of this
    machine that stand for a port of a pod.
    """

    objects: dict[Key, Table] = field(default_factory=dict)
    applied: dict[Key, Table] = field(default_factory=dict)
    logs: dict[str, str | Path] = field(default_factory=dict)
    ports: dict[tuple[str, int], int] = field(default_factory=dict)
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    faults: list[int] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    writes: list[tuple[str, str]] = field(default_factory=list)
    kubelets: bool = False
    version: int = 0
    events: deque[Event] = field(default_factory=deque)
    forgotten: int = 0
    """The last version of which the events are gone."""
    listeners: list[Callable[[], object]] = field(default_factory=list)
    lock: RLock = field(default_factory=RLock)

    def put(self, table: Table, plural: str) -> Table:
        """Store an object as a controller or a person would."""
        metadata = table.setdefault("metadata", {})
        space = "" if plural in CLUSTER_WIDE else metadata.setdefault("namespace", "raymoe")
        key = (str(table.get("apiVersion", "v1")), plural, space, str(metadata["name"]))
        return self.write(key, table)

    def find(self, plural: str, name: str) -> Table:
        (found,) = (
            each for key, each in self.objects.items() if key[1] == plural and key[3] == name
        )
        return found

    def write(self, key: Key, table: Table) -> Table:
        """Store an object; one that is being deleted and that nothing holds any more goes."""
        with self.lock:
            metadata = table["metadata"]
            before = self.objects.get(key)
            if before is None:
                metadata.setdefault("uid", f"uid-{self.version + 1}")
                metadata.setdefault("creationTimestamp", now())
                metadata["generation"] = 1
            elif before.get("spec") != table.get("spec"):
                metadata["generation"] = int(before["metadata"].get("generation", 1)) + 1
            self.objects[key] = table
            self._happened("MODIFIED" if before else "ADDED", key, table)
            if metadata.get("deletionTimestamp") and not self._held(key, metadata):
                self.remove(key)
            return table

    def delete(self, key: Key, foreground: bool = False, at_once: bool = False) -> None:
        """Delete an object, or mark it where something holds it.

        ``foreground``: it stays until what it owns has gone. ``at_once``: of a pod, without its
        kubelet.
        """
        with self.lock:
            table = self.objects[key]
            metadata = copy.deepcopy(table["metadata"])
            holds = list(metadata.get("finalizers", ()))
            if foreground and FOREGROUND not in holds and any(self._owned(metadata["uid"])):
                metadata["finalizers"] = [*holds, FOREGROUND]
            if self._held(key, metadata) and not (at_once and not holds):
                metadata.setdefault("deletionTimestamp", now())
                if metadata != table["metadata"]:
                    self.write(key, table | {"metadata": metadata})
            else:
                self.remove(key)
            self._collect()

    def remove(self, key: Key) -> None:
        """Remove an object whatever holds it, and let go what it owns."""
        with self.lock:
            table = self.objects.pop(key)
            self.applied.pop(key, None)
            self._happened("DELETED", key, table)
            self._collect()

    def since(self, version: int) -> list[Event]:
        """Return what happened after a version."""
        with self.lock:
            return [event for event in self.events if event.version > version]

    def forget(self) -> None:
        """Forget what happened until now, as a server does after a while."""
        with self.lock:
            self.events.clear()
            self.forgotten = self.version

    def _happened(self, type_: str, key: Key, table: Table) -> None:
        self.version += 1
        table["metadata"]["resourceVersion"] = str(self.version)
        self.events.append(Event(self.version, type_, key, copy.deepcopy(table)))
        while len(self.events) > KEPT:
            self.forgotten = self.events.popleft().version
        for listener in list(self.listeners):
            listener()

    def _held(self, key: Key, metadata: Table) -> bool:
        """Return whether an object that is deleted has to wait."""
        return bool(metadata.get("finalizers")) or (key[1] == "pods" and self.kubelets)

    def _owned(self, uid: str) -> Iterator[Key]:
        for key, table in list(self.objects.items()):
            owners = table["metadata"].get("ownerReferences", ())
            if any(owner["uid"] == uid for owner in owners):
                yield key

    def _collect(self) -> None:
        while self._swept():
            pass

    def _swept(self) -> bool:
        """Do one thing that Kubernetes' garbage collector does; return whether there was one."""
        uids = {table["metadata"].get("uid") for table in self.objects.values()}
        for key, table in list(self.objects.items()):
            metadata = table["metadata"]
            owners = metadata.get("ownerReferences", ())
            going = metadata.get("deletionTimestamp")
            if owners and not going and all(owner["uid"] not in uids for owner in owners):
                self.delete(key)
                return True
            waits = going and FOREGROUND in metadata.get("finalizers", ())
            if waits and self._waits_for_owned(key, metadata):
                return True
        return False

    def _waits_for_owned(self, key: Key, metadata: Table) -> bool:
        """Delete what an object owns, or let the object go; return whether anything was done."""
        owned = list(self._owned(metadata["uid"]))
        for each in owned:
            if not self.objects[each]["metadata"].get("deletionTimestamp"):
                self.delete(each, foreground=True)
                return True
        if owned:
            return False
        left = [each for each in metadata["finalizers"] if each != FOREGROUND]
        self.write(key, self.objects[key] | {"metadata": metadata | {"finalizers": left}})
        return True


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
