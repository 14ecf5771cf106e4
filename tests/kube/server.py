"""A small API server in memory: what raymoe asks of one, checked by KubeRay's own definitions.

It creates, reads, lists, deletes and applies objects (server-side apply, dry runs and strict
validation included), reviews access, and tells of logs. It knows no schema of Kubernetes' own
kinds, no controllers and no quotas: tests play those parts by writing objects.
``faults`` are answers that it gives in place of the true ones, 0 for a true one; a negative one
breaks the connection.
"""

import asyncio
import copy
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from kubernetes import client

from cluster.kube.api import Api
from tests.kube.json_patch import patched
from tests.manifests.definitions import PLURALS
from tests.manifests.schema import faults as refused_by_schema

Table = dict[str, Any]
Key = tuple[str, str, str, str]
"""Group with version, plural, namespace, name."""

STORE = web.AppKey("store", "Store")
KINDS = {plural: kind for kind, plural in PLURALS.items()}
_DATA, _ERRORS = b"\x00", b"\x01"
CLUSTER_WIDE = ("nodes", "storageclasses", "customresourcedefinitions")


@dataclass
class Store:
    """The objects, who may not do what, and what is to go wrong."""

    objects: dict[Key, Table] = field(default_factory=dict)
    applied: dict[Key, Table] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    ports: dict[tuple[str, int], int] = field(default_factory=dict)
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    faults: list[int] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    writes: list[tuple[str, str]] = field(default_factory=list)
    version: int = 0

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
        self.version += 1
        metadata = table["metadata"]
        before = self.objects.get(key)
        if before is None:
            metadata.setdefault("uid", f"uid-{self.version}")
            metadata.setdefault("creationTimestamp", "2026-11-30T12:00:00Z")
            metadata["generation"] = 1
        elif before.get("spec") != table.get("spec"):
            metadata["generation"] = int(before["metadata"].get("generation", 1)) + 1
        metadata["resourceVersion"] = str(self.version)
        self.objects[key] = table
        return table

    def remove(self, key: Key) -> None:
        """Remove an object and what it owns."""
        self.version += 1
        table = self.objects.pop(key)
        self.applied.pop(key, None)
        uid = table["metadata"].get("uid")
        for other, each in list(self.objects.items()):
            owners = each["metadata"].get("ownerReferences", ())
            if other in self.objects and any(owner["uid"] == uid for owner in owners):
                self.remove(other)


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def serving(store: Store) -> Iterator[Api]:
    """Serve a store in a thread; yield our client of it, which does not wait between tries."""
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(store, ready)), daemon=True)
    thread.start()
    loop, stop, port = ready.result(timeout=30)
    settings = client.Configuration()
    settings.host = f"http://127.0.0.1:{port}"
    settings.retries = False
    try:
        with client.ApiClient(settings) as connected:
            yield Api(connected, sleep=lambda _: None)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)


async def _serve(store: Store, ready: "Future[Any]") -> None:
    """Serve until the event that ``ready`` gets is set."""
    app = web.Application()
    app[STORE] = store
    app.router.add_route("*", "/{path:.*}", _answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stop = asyncio.Event()
    ready.set_result((asyncio.get_running_loop(), stop, runner.addresses[0][1]))
    await stop.wait()
    await runner.cleanup()


async def _answer(request: web.Request) -> web.Response:
    store: Store = request.app[STORE]
    if store.faults and (status := store.faults.pop(0)):
        if status < 0:  # the connection breaks
            assert request.transport is not None
            request.transport.close()
        return _failure(abs(status), "injected")
    body = await request.text()
    try:
        return await _route(request, store, json.loads(body) if body else None)
    except Refused as refused:
        return _failure(refused.status, str(refused))


def _failure(status: int, message: str) -> web.Response:
    table = {"kind": "Status", "status": "Failure", "code": status, "message": message}
    return web.json_response(table, status=status)


async def _route(request: web.Request, store: Store, body: Any) -> web.StreamResponse:
    path = request.path.strip("/")
    if path == "version":
        return web.json_response({"gitVersion": "v1.37.0"})
    if path.endswith("selfsubjectaccessreviews"):
        return _reviewed(store, body)
    key, part = _granted(request, store, path)
    if part == "log":
        return _log(request, store, key)
    if part == "portforward":
        return await _forward(request, store, key)
    if request.method == "GET":
        return web.json_response(_there(store, key) if key[3] else _list(request, store, key))
    store.writes.append((request.method, f"{key[1]}/{key[3]}"))
    if request.method == "DELETE":
        return web.json_response(_delete(store, key))
    if request.content_type == "application/json-patch+json":
        changed = patched(_there(store, key), body)
        if changed is None:
            raise Refused(422, "the server rejected our request: testing value: test failed")
        return web.json_response(store.write(key, _checked(key, changed)))
    return _apply(request, store, key, body)


def _reviewed(store: Store, body: Table) -> web.Response:
    asked = body["spec"]["resourceAttributes"]
    resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
    allowed = (asked["verb"], resource) not in store.forbidden
    return web.json_response(body | {"status": {"allowed": allowed}}, status=201)


def _granted(request: web.Request, store: Store, path: str) -> tuple[Key, str]:
    """Return what a path names, if the server has such objects and we may do this to them."""
    key, part = _key(path)
    if key[1] in store.missing:
        raise Refused(404, "the server could not find the requested resource")
    verb = _VERBS[request.method] if key[3] or request.method != "GET" else "list"
    resource = f"{key[1]}/{part}" if part else key[1]
    if (verb, resource) in store.forbidden:
        raise Refused(403, f'{key[1]} is forbidden: User "u" cannot {verb} resource "{resource}"')
    return key, part


_VERBS = {"GET": "get", "PATCH": "patch", "DELETE": "delete", "POST": "create"}


def _key(path: str) -> tuple[Key, str]:
    """Return what a path names: its key, and the part of the object (log, status)."""
    parts = path.split("/")
    version, rest = (
        (parts[1], parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
    )
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    plural, name, part = (*rest, "", "")[:3]
    return (version, plural, namespace, name), part


def _there(store: Store, key: Key) -> Table:
    if key not in store.objects:
        raise Refused(404, f'{key[1]} "{key[3]}" not found')
    return store.objects[key]


def _list(request: web.Request, store: Store, key: Key) -> Table:
    labels = [each.split("=") for each in request.query.get("labelSelector", "").split(",") if each]
    items = [
        table
        for other, table in sorted(store.objects.items())
        if _is_among(other, key)
        and all(table["metadata"].get("labels", {}).get(name) == value for name, value in labels)
    ]
    start, most = int(request.query.get("continue", 0)), int(request.query.get("limit", 10**6))
    metadata = {"resourceVersion": str(store.version)}
    if start + most < len(items):
        metadata["continue"] = str(start + most)
    return {"kind": "List", "metadata": metadata, "items": items[start : start + most]}


def _is_among(key: Key, asked: Key) -> bool:
    return key[:2] == asked[:2] and asked[2] in ("", key[2])


def _log(request: web.Request, store: Store, key: Key) -> web.Response:
    _there(store, key)
    lines = store.logs.get(key[3], "").splitlines(keepends=True)
    tail = request.query.get("tailLines")
    return web.Response(text="".join(lines if tail is None else lines[-int(tail) or len(lines) :]))


async def _forward(request: web.Request, store: Store, key: Key) -> web.WebSocketResponse:
    """Carry a connection to a port of a pod, as kubelets do: a channel of bytes, one of errors."""
    _there(store, key)
    port = int(request.query["ports"])
    socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
    await socket.prepare(request)
    for channel in (_DATA, _ERRORS):
        await socket.send_bytes(channel + port.to_bytes(2, "little"))
    reader, writer = await asyncio.open_connection("127.0.0.1", store.ports[key[3], port])

    async def back() -> None:
        while data := await reader.read(2**14):
            await socket.send_bytes(_DATA + data)
        await socket.close()

    returning = asyncio.create_task(back())
    async for message in socket:
        writer.write(message.data[1:])
    returning.cancel()
    writer.close()
    await asyncio.gather(returning, writer.wait_closed(), return_exceptions=True)
    return socket


def _delete(store: Store, key: Key) -> Table:
    table = _there(store, key)
    if table["metadata"].get("finalizers"):
        changed = copy.deepcopy(table)
        changed["metadata"].setdefault("deletionTimestamp", "2026-11-30T12:00:01Z")
        return store.write(key, changed)
    store.remove(key)
    return {"kind": "Status", "status": "Success"}


def _apply(request: web.Request, store: Store, key: Key, wished: Table) -> web.Response:
    if request.content_type != "application/apply-patch+yaml":
        raise Refused(415, f"media type {request.content_type} is not served here")
    if not request.query.get("fieldManager"):
        raise Refused(400, "fieldManager is required for apply patch")
    before = store.objects.get(key)
    merged = _merged(before or {}, wished, store.applied.get(key, {}))
    merged.setdefault("metadata", {}).setdefault("namespace", key[2])
    _checked(key, merged)
    if request.query.get("dryRun"):
        return web.json_response(merged, status=200 if before else 201)
    store.applied[key] = copy.deepcopy(wished)
    if before is not None and _same(before, merged):
        return web.json_response(before)
    return web.json_response(store.write(key, merged), status=200 if before else 201)


def _merged(there: Any, wished: Any, owned: Any) -> Any:
    """Return an object with the wished fields; what was wished before and is not now is removed."""
    if not (isinstance(there, dict) and isinstance(wished, dict)):
        return copy.deepcopy(wished)
    before = owned if isinstance(owned, dict) else {}
    kept = {key: each for key, each in there.items() if key in wished or key not in before}
    return copy.deepcopy(kept) | {
        key: _merged(there.get(key), each, before.get(key)) for key, each in wished.items()
    }


def _same(one: Table, other: Table) -> bool:
    return all(one.get(key) == other.get(key) for key in ("spec", "data")) and (
        one["metadata"].get("labels") == other["metadata"].get("labels")
    )


def _checked(key: Key, table: Table) -> Table:
    """Return an object of KubeRay that its definition allows; others as they are."""
    if key[1] in KINDS and (found := refused_by_schema(table)):
        raise Refused(400, f"strict decoding error: {'; '.join(found[:3])}")
    return table
