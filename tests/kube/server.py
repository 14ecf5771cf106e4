"""A small API server in memory: what raymoe, Ray and KubeRay ask of one.

It makes, reads, lists, watches, changes and deletes objects (server-side apply, patches, dry runs,
status apart, strict validation), reviews access, and brings logs and ports of pods. KubeRay's
objects are checked by KubeRay's own definitions (``changing``); the schemas of Kubernetes' own
kinds, quotas and admission it does not know.
"""

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import web
from kubernetes import client

from cluster.kube.api import Api
from tests.kube.changing import Change, Refused, created, patched, replaced, there
from tests.kube.store import Key, Store, Table
from tests.kube.watching import watch

__all__ = ["Place", "Store", "serving"]

STORE = web.AppKey("store", "Store")
_DATA, _ERRORS = b"\x00", b"\x01"


@dataclass(frozen=True)
class Place:
    """Where to listen; with a certificate and its key by TLS, as Ray's autoscaler wants it."""

    host: str = "127.0.0.1"
    port: int = 0
    certificate: Path | None = None
    key: Path | None = None


@contextmanager
def serving(store: Store, place: Place = Place()) -> Iterator[Api]:
    """Serve a store in a thread; yield our client of it, which does not wait between tries."""
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()
    serve = _serve(store, place, ready)
    thread = threading.Thread(target=lambda: asyncio.run(serve), daemon=True)
    thread.start()
    loop, stop, port = ready.result(timeout=30)
    settings = client.Configuration()
    settings.host = f"http{'s' if place.certificate else ''}://{place.host}:{port}"
    settings.ssl_ca_cert = None if place.certificate is None else str(place.certificate)
    settings.retries = False
    try:
        with client.ApiClient(settings) as connected:
            yield Api(connected, sleep=lambda _: None)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)


async def _serve(store: Store, place: Place, ready: "Future[Any]") -> None:
    """Serve until the event that ``ready`` gets is set."""
    app = web.Application()
    app[STORE] = store
    app.router.add_route("*", "/{path:.*}", _answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    secure = None
    if place.certificate is not None:
        secure = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        secure.load_cert_chain(place.certificate, place.key)
    await web.TCPSite(runner, place.host, place.port, ssl_context=secure).start()
    stop = asyncio.Event()
    ready.set_result((asyncio.get_running_loop(), stop, runner.addresses[0][1]))
    await stop.wait()
    await runner.cleanup()


async def _answer(request: web.Request) -> web.StreamResponse:
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
    if request.method == "GET" and request.query.get("watch", "").lower() in ("true", "1"):
        return await watch(request, store, lambda other, table: _chosen(request, key, other, table))
    with store.lock:
        if request.method == "GET":
            found = there(store, key) if key[3] else _list(request, store, key)
            return web.json_response(found)
        store.writes.append((request.method, f"{key[1]}/{key[3]}"))
        if request.method == "DELETE":
            return web.json_response(_delete(request, store, key, body or {}))
        return _changed(request, store, Change(key, part, body))


def _changed(request: web.Request, store: Store, asked: Change) -> web.Response:
    """Carry out a request that writes an object."""
    query = request.query
    change = replace(
        asked,
        content=request.content_type,
        manager=query.get("fieldManager"),
        strict=query.get("fieldValidation") == "Strict",
        dry=bool(query.get("dryRun")),
    )
    if request.method == "POST":
        return web.json_response(created(store, change), status=201)
    if request.method == "PUT":
        return web.json_response(replaced(store, change))
    table, status = patched(store, change)
    return web.json_response(table, status=status)


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
    verb = "watch" if verb == "list" and "watch" in request.query else verb
    resource = f"{key[1]}/{part}" if part else key[1]
    if (verb, resource) in store.forbidden:
        raise Refused(403, f'{key[1]} is forbidden: User "u" cannot {verb} resource "{resource}"')
    return key, part


_VERBS = {"GET": "get", "PATCH": "patch", "PUT": "update", "DELETE": "delete", "POST": "create"}


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


def _list(request: web.Request, store: Store, key: Key) -> Table:
    every = sorted(store.objects.items())
    items = [table for other, table in every if _chosen(request, key, other, table)]
    start, most = int(request.query.get("continue", 0)), int(request.query.get("limit", 10**6))
    metadata = {"resourceVersion": str(store.version)}
    if start + most < len(items):
        metadata["continue"] = str(start + most)
    return {"kind": "List", "metadata": metadata, "items": items[start : start + most]}


def _chosen(request: web.Request, asked: Key, key: Key, table: Table) -> bool:
    """Return whether an object is among those that a list or a watch asks for."""
    selectors = request.query.get("labelSelector", "").split(",")
    wished = [each.split("=") for each in selectors if each]
    labels = table["metadata"].get("labels", {})
    return (
        key[:2] == asked[:2]
        and asked[2] in ("", key[2])
        and asked[3] in ("", key[3])
        and all(labels.get(name) == value for name, value in wished)
    )


def _log(request: web.Request, store: Store, key: Key) -> web.Response:
    there(store, key)
    found = store.logs.get(key[3], "")
    text = found.read_text(errors="replace") if isinstance(found, Path) else found
    lines = text.splitlines(keepends=True)
    tail = request.query.get("tailLines")
    return web.Response(text="".join(lines if tail is None else lines[-int(tail) or len(lines) :]))


async def _forward(request: web.Request, store: Store, key: Key) -> web.WebSocketResponse:
    """Carry a connection to a port of a pod, as kubelets do: a channel of bytes, one of errors."""
    pod = there(store, key)
    port = int(request.query["ports"])
    own = (pod.get("status", {}).get("podIP"), port)
    address = ("127.0.0.1", store.ports[key[3], port]) if (key[3], port) in store.ports else own
    socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
    await socket.prepare(request)
    for channel in (_DATA, _ERRORS):
        await socket.send_bytes(channel + port.to_bytes(2, "little"))
    reader, writer = await asyncio.open_connection(*address)

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


def _delete(request: web.Request, store: Store, key: Key, body: Table) -> Table:
    there(store, key)
    asked = {**request.query, **body}
    foreground = asked.get("propagationPolicy") == "Foreground"
    store.delete(key, foreground, at_once=str(asked.get("gracePeriodSeconds")) == "0")
    return store.objects.get(key) or {"kind": "Status", "status": "Success"}
