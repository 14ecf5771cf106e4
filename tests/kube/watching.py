"""Watches of the API server in memory: what happens to objects, from a version on.

As in Kubernetes, a watch without a version begins with all objects that are there, bookmarks say up
to where a silent watch has come, and who comes with a version too old is told 410.
"""

import asyncio
import json
from collections.abc import Callable, Iterator

from aiohttp import web

from tests.kube.store import Event, Key, Store, Table

SECONDS = 300.0
"""How long a watch lasts that says nothing of it."""
BOOKMARK_SECONDS = 1.0
"""A real server sends one a minute."""

Chosen = Callable[[Key, Table], bool]


async def watch(request: web.Request, store: Store, chosen: Chosen) -> web.StreamResponse:
    """Answer with a line for each event of the chosen objects, until the time is over."""
    stream = _Stream(store, chosen, request.query.get("resourceVersion", ""))
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    loop, woken = asyncio.get_running_loop(), asyncio.Event()
    seconds = float(request.query.get("timeoutSeconds", SECONDS))
    marks = request.query.get("allowWatchBookmarks", "").lower() == "true"

    def wake() -> None:
        loop.call_soon_threadsafe(woken.set)

    store.listeners.append(wake)
    try:
        end = loop.time() + seconds
        while True:
            woken.clear()
            lines = list(stream.lines())
            for line in lines:
                await response.write(line)
            if stream.ended or loop.time() >= end:
                break
            wait = min(BOOKMARK_SECONDS, end - loop.time())
            try:
                await asyncio.wait_for(woken.wait(), wait)
            except TimeoutError:
                if marks:
                    await response.write(stream.bookmark())
    except ConnectionResetError:
        pass  # who watched has gone
    finally:
        store.listeners.remove(wake)
    return response


class _Stream:
    """The events of one watch, as lines; ``ended`` once it has nothing more to say."""

    def __init__(self, store: Store, chosen: Chosen, version: str) -> None:
        self._store, self._chosen = store, chosen
        self._version = int(version) if version.isdigit() else 0
        self._from_now = self._version == 0
        self.ended = False

    def lines(self) -> Iterator[bytes]:
        """Yield what has happened since the last time."""
        with self._store.lock:
            if self._from_now:
                self._from_now = False
                self._version = self._store.version
                there = sorted(self._store.objects.items())
                for key, table in there:
                    if self._chosen(key, table):
                        yield _line("ADDED", table)
                return
            if self._version < self._store.forgotten:
                self.ended = True
                oldest = self._store.forgotten + 1
                yield _line("ERROR", _expired(self._version, oldest))
                return
            events = self._store.since(self._version)
            self._version = self._store.version
        yield from (_line(each.type, each.table) for each in events if self._wants(each))

    def bookmark(self) -> bytes:
        """Return the line that says up to where this watch has told everything."""
        return _line("BOOKMARK", {"metadata": {"resourceVersion": str(self._version)}})

    def _wants(self, event: Event) -> bool:
        return self._chosen(event.key, event.table)


def _expired(version: int, oldest: int) -> Table:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": "Expired",
        "message": f"too old resource version: {version} ({oldest})",
        "code": 410,
    }


def _line(type_: str, table: Table) -> bytes:
    return json.dumps({"type": type_, "object": table}).encode() + b"\n"
