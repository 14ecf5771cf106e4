"""The API server as controllers and kubelets speak to it, by the official client."""

import json
from typing import Any

from cluster.kube.api import Refusal
from cluster.kube.kinds import Kind
from tests.kube.store import Table

SERVICE = Kind("Service", "v1", "services")
JOB = Kind("Job", "batch/v1", "jobs")


class Objects:
    """The objects of one namespace."""

    def __init__(self, client: Any, namespace: str) -> None:
        self._client, self.namespace = client, namespace

    def get(self, kind: Kind, name: str) -> Table | None:
        try:
            return self._asked("GET", kind.path(self.namespace, name))
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise

    def every(self, kind: Kind, selector: str = "") -> list[Table]:
        """Return the objects with these labels, as ``key=value,key=value``."""
        query = {"labelSelector": selector}
        return list(self._asked("GET", kind.path(self.namespace), query)["items"])

    def create(self, kind: Kind, table: Table, owner: Table | None = None) -> Table:
        """Make an object, once; it goes with its owner."""
        own = {"apiVersion": kind.version, "kind": kind.name, **table}
        if owner is not None:
            own["metadata"] = own["metadata"] | {"ownerReferences": [_reference(owner)]}
        try:
            return self._asked("POST", kind.path(self.namespace), {}, own)
        except Refusal as refusal:
            found = self.get(kind, table["metadata"].get("name", ""))
            if refusal.status != 409 or found is None:
                raise
            return found

    def change(self, kind: Kind, name: str, patch: Table) -> Table:
        """Merge a patch into an object."""
        return self._merge(kind.path(self.namespace, name), patch)

    def status(self, kind: Kind, name: str, status: Table) -> Table:
        """Merge a status into that of an object; the server writes it if that changes it."""
        return self._merge(f"{kind.path(self.namespace, name)}/status", {"status": status})

    def delete(self, kind: Kind, name: str, at_once: bool = False) -> None:
        """Delete an object, if it is there; its kubelet deletes a pod ``at_once``."""
        query = {"gracePeriodSeconds": "0"} if at_once else {}
        try:
            self._asked("DELETE", kind.path(self.namespace, name), query)
        except Refusal as refusal:
            if refusal.status != 404:
                raise

    def _merge(self, path: str, patch: Table) -> Table:
        return self._asked("PATCH", path, {}, patch, "application/merge-patch+json")

    def _asked(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Table | None = None,
        content: str = "application/json",
    ) -> Table:
        words = self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": content},
            body=body,
        )
        response = self._client.call_api(*words, _request_timeout=30)
        table = dict(json.loads(response.read() or b"{}"))
        if response.status >= 400:
            raise Refusal(response.status, str(table.get("message")), f"{method} {path}")
        return table


def is_ready(pod: Table) -> bool:
    """Return whether a pod says that it is ready."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _reference(owner: Table) -> Table:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
