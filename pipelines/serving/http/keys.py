"""API keys: who may ask."""

import hashlib
import hmac
import json
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.serving.refusals import error_body

OPEN_PATHS = frozenset({"/health"})
"""Paths that need no key: probes have none."""

SCHEME = "bearer "


class ApiKeys:
    """Middleware: refuses requests without one of the keys; only their hashes are kept.

    Every key is compared, in a time that does not depend on where two texts differ.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._hashes = [_hash(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._known(scope):
            await self._app(scope, receive, send)
        else:
            await _refusal(Headers(scope=scope))(scope, receive, send)

    def _known(self, scope: Scope) -> bool:
        given = _hash(_key(Headers(scope=scope)))
        return sum(hmac.compare_digest(given, known) for known in self._hashes) > 0


def _key(headers: Headers) -> str:
    """Return the key of a request; empty if it has none."""
    said = headers.get("authorization", "")
    return said[len(SCHEME) :].strip() if said[: len(SCHEME)].lower() == SCHEME else ""


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _refusal(headers: Headers) -> Response:
    found = "is not one of this server's" if _key(headers) else "is missing"
    said = f"the API key {found}; send the header Authorization: Bearer KEY"
    body = error_body(said, "authentication_error", code="invalid_api_key")
    named = {"WWW-Authenticate": "Bearer"}
    return Response(json.dumps(body), 401, named, "application/json")
