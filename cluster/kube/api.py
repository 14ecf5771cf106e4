"""The API server, spoken to by the official client: few requests, each with its errors in words.

A request that the server did not answer is sent again: reads, server-side applies and deletes have
the same effect twice as once.
"""

import codecs
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import urllib3

from cluster.kube.kinds import Kind
from moe.errors import ClusterError

MANAGER = "raymoe"
"""Our name as the owner of fields. Fields that others own (replicas, by Ray's autoscaler) stay
theirs as long as we do not send them."""

TRIES = 5
WAIT_SECONDS = 1.0
"""Seconds before a request is sent again; twice as long each time."""
ANSWER_SECONDS = 30.0

_AGAIN = (429, 500, 502, 503, 504)
_PAGE = 500
_CHUNK = 2**14

Table = dict[str, Any]
Query = Mapping[str, str]


class Refusal(Exception):
    """What the API server said to a request that it did not grant."""

    def __init__(self, status: int, message: str, asked: str) -> None:
        super().__init__(f"{asked}: {status} {message}")
        self.status = status
        self.message = message
        self.asked = asked


class Api:
    """The requests of raymoe. ``sleep`` waits between two tries."""

    def __init__(self, client: Any, sleep: Callable[[float], object] = time.sleep) -> None:
        self._client = client
        self._sleep = sleep

    @property
    def client(self) -> Any:
        """The official client."""
        return self._client

    @property
    def host(self) -> str:
        """The address of the API server."""
        return str(self._client.configuration.host)

    def get(self, kind: Kind, namespace: str | None, name: str) -> Table | None:
        """Return one object; None if there is none of this name."""
        try:
            return self._table("GET", kind.path(namespace, name))
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise

    def every(self, kind: Kind, namespace: str | None, selector: str = "") -> list[Table]:
        """Return all objects of a kind in a namespace (None: everywhere) with these labels."""
        query = {"limit": str(_PAGE)} | ({"labelSelector": selector} if selector else {})
        found: list[Table] = []
        while True:
            page = self._table("GET", kind.path(namespace), query)
            found += page.get("items") or []
            more = (page.get("metadata") or {}).get("continue")
            if not more:
                return found
            query = query | {"continue": more}

    def apply(self, kind: Kind, table: Table, dry: bool = False) -> Table:
        """Have the server merge an object into the one it has, or make it; return the result.

        Unknown fields are refused. ``dry`` changes nothing.
        """
        query = {"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict"}
        if dry:
            query["dryRun"] = "All"
        metadata = table["metadata"]
        path = kind.path(metadata.get("namespace"), metadata["name"])
        return self._table("PATCH", path, query, table, "application/apply-patch+yaml")

    def patch(self, kind: Kind, namespace: str, name: str, changes: list[Table]) -> Table:
        """Change an object by a JSON patch; return it. Refusal 422 where a test of it fails.

        A patch that is sent again where the answer was lost must be one that may come twice.
        """
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
        path = kind.path(namespace, name)
        return self._table("PATCH", path, query, changes, "application/json-patch+json")

    def delete(self, kind: Kind, namespace: str, name: str) -> bool:
        """Delete an object and what it owns; return whether it was there."""
        body = {"propagationPolicy": "Foreground"}
        try:
            self._table("DELETE", kind.path(namespace, name), {}, body, "application/json")
        except Refusal as refusal:
            if refusal.status == 404:
                return False
            raise
        return True

    def may(self, verb: str, group: str, resource: str, namespace: str | None) -> bool:
        """Ask the server whether we may do something."""
        plain, _, part = resource.partition("/")
        asked = {"verb": verb, "group": group, "resource": plain}
        asked |= {"subresource": part} if part else {}
        asked |= {"namespace": namespace} if namespace else {}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = self._table("POST", path, {}, body, "application/json")
        return bool(answer.get("status", {}).get("allowed"))

    def version(self) -> str:
        """Return the version of the API server."""
        return str(self._table("GET", "/version").get("gitVersion", "unknown"))

    def log(self, namespace: str, pod: str, query: Query) -> Iterator[str]:
        """Yield the lines of a pod's log; with ``follow`` until the pod ends."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        endless = query.get("follow") == "true"
        response = self._sent("GET", path, query, None, None, None if endless else ANSWER_SECONDS)
        rest = ""
        for text in codecs.iterdecode(response.response.stream(_CHUNK), "utf-8", "replace"):
            *lines, rest = (rest + text).split("\n")
            yield from lines
        if rest:
            yield rest

    def _table(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        content: str | None = None,
    ) -> Table:
        response = self._sent(method, path, query or {}, body, content, ANSWER_SECONDS)
        try:
            return dict(json.loads(response.read() or b"{}"))
        except (TypeError, ValueError) as error:
            raise ClusterError(
                f"{self.host} did not answer {method} {path} as an API server does: {error}; check "
                "the address in the kubeconfig"
            ) from error

    def _sent(
        self,
        method: str,
        path: str,
        query: Query,
        body: Any,
        content: str | None,
        seconds: float | None,
    ) -> Any:
        headers = {"Accept": "application/json, */*"} | (
            {"Content-Type": content} if content else {}
        )
        wait = WAIT_SECONDS
        for left in reversed(range(TRIES)):
            words = self._client.param_serialize(
                method,
                path,
                query_params=list(query.items()),
                header_params=dict(headers),
                body=body,
                auth_settings=["BearerToken"],
            )
            try:
                response = self._client.call_api(*words, _request_timeout=seconds)
                if response.status not in _AGAIN or not left:
                    return self._granted(response, f"{method} {path}")
            except (urllib3.exceptions.HTTPError, OSError) as error:
                if not left:
                    raise ClusterError(
                        f"the API server at {self.host} did not answer {TRIES} times: {error}; "
                        "check the address and the certificates of the kubeconfig"
                    ) from error
            self._sleep(wait)
            wait *= 2
        raise AssertionError("unreachable: the last try returns or raises")

    def _granted(self, response: Any, asked: str) -> Any:
        if response.status < 400:
            return response
        text = (response.read() or b"").decode("utf-8", "replace")
        try:
            message = str(json.loads(text).get("message", text))
        except (ValueError, AttributeError):
            message = text.strip()[:300]
        if response.status == 401:
            raise ClusterError(
                f"the API server at {self.host} does not know who we are ({message}); log in "
                "again, or name another context of the kubeconfig with --context"
            )
        raise Refusal(response.status, message, asked)


def in_words(refusal: Refusal) -> ClusterError:
    """Return a refusal as an error that says what is missing."""
    if refusal.status == 403:
        return ClusterError(
            f"the API server refused: {refusal.message}; ask for that right: "
            "manifests/base/rights.yaml has all that raymoe needs"
        )
    if refusal.status == 404 and "ray.io" in refusal.asked:
        return ClusterError(
            "the API server knows no objects of KubeRay; install its operator, and check with "
            "`raymoe kube doctor`"
        )
    return ClusterError(f"the API server refused {refusal}; correct the object and apply it again")
