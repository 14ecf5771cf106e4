"""A request on its way to a replica, and its answer there."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Scope

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A whole request; ``beginnings`` name how its prompt begins, the shortest first."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes
    beginnings: tuple[bytes, ...] = ()

    @property
    def scope(self) -> Scope:
        """The request as an ASGI application reads it."""
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query,
            "root_path": "",
            "headers": list(self.headers),
            "client": None,
            "server": None,
        }


async def answers(app: ASGIApp, asked: Asked) -> AsyncGenerator[Sequence[Message], None]:
    """Yield what an application sends in answer, all there is at a time.

    The head of an answer comes together with the beginning of its body. Whoever stops reading ends
    the request.
    """
    sent: asyncio.Queue[Message] = asyncio.Queue()
    working = asyncio.create_task(_run(app, asked, sent))
    try:
        more = True
        while more:
            messages = [await sent.get()]
            while not sent.empty() or messages[-1]["type"] == "http.response.start":
                messages.append(await sent.get())
            if messages[-1] is _ENDED:
                messages.pop()
                await working
            more = bool(messages) and messages[-1].get("more_body", False)
            if messages:
                yield messages
    finally:
        working.cancel()
        await asyncio.wait([working])


_ENDED: Message = {"type": "ended"}
"""Comes last from an application, also from one that fails."""


async def _run(app: ASGIApp, asked: Asked, sent: asyncio.Queue[Message]) -> None:
    body: list[Message] = [{"type": "http.request", "body": asked.body, "more_body": False}]

    async def receive() -> Message:
        return body.pop() if body else await _never()

    try:
        await app(asked.scope, receive, sent.put)
    finally:
        sent.put_nowait(_ENDED)


async def _never() -> Message:
    """Wait until the request is cancelled, which is how a client's leaving is told here."""
    await asyncio.Event().wait()
    raise AssertionError
