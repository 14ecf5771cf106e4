"""Request bodies, before anything reads them: bounded in bytes, and treated as JSON.

A body is JSON also under another Content-Type, such as ``curl -d`` sends: this API has no other
bodies.
"""

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DISCARDED_BYTES = 64 * 2**20
"""Bytes of a too large body that are read and discarded. A client that is still sending does not
read the answer; after these bytes the connection is closed.
"""


class JsonBodies:
    """Middleware: limits bodies to ``most_bytes`` and marks them as JSON."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; the first read of a too large body raises the error 413."""
        if scope["type"] == "http" and scope["method"] == "POST":
            headers = MutableHeaders(scope=scope)
            headers["content-type"] = "application/json"
            receive = _Bounded(receive, self._most_bytes, _declared(headers))
        await self._app(scope, receive, send)


class _Bounded:
    """A ``receive`` of a request that counts the bytes."""

    def __init__(self, receive: Receive, most_bytes: int, declared: int) -> None:
        self._receive = receive
        self._most_bytes = most_bytes
        self._declared = declared
        self._read = 0

    async def __call__(self) -> Message:
        message = await self._next()
        if max(self._read, self._declared) <= self._most_bytes:
            return message
        while message.get("more_body") and self._read < DISCARDED_BYTES:
            message = await self._next()
        raise HTTPException(
            413,
            f"the body has {max(self._read, self._declared)} bytes but this server reads at most "
            f"{self._most_bytes}; send less text, or fewer prompts in one request",
        )

    async def _next(self) -> Message:
        message = await self._receive()
        self._read += len(message.get("body", b""))
        return message


def _declared(headers: MutableHeaders) -> int:
    """Return the declared length of the body; 0 if the request declares none."""
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdecimal() else 0
