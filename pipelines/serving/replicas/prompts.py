"""How prompts begin: names by which requests that begin alike are brought to the same replica.

A name stands for all of a prompt up to a place, as the name of a block of the cache does. The text
is that of the request and not its tokens, so that nobody has to tokenize before it is known who
will answer.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

STEP = 128
"""Characters between two names; a block of the cache holds about half as many."""

MOST = 512
"""Names of one prompt."""

_PARTS = ("tools", "instructions", "messages", "input", "prompt")
"""Fields that make the prompt, in the order of the prompt."""


def beginnings(body: bytes) -> tuple[bytes, ...]:
    """Return the names of the beginnings of a request's prompt, the shortest first.

    Empty where the body is no request with a prompt.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(request, dict):
        return ()
    text, name = _text(request), _hash(str(request.get("model")).encode(errors="replace"))
    found = []
    for stop in range(STEP, min(len(text), STEP * MOST) + 1, STEP):
        name = _hash(name + text[stop - STEP : stop].encode(errors="replace"))
        found.append(name)
    return tuple(found)


def _text(request: Mapping[str, Any]) -> str:
    """Return a text that begins alike where prompts do."""
    return "".join(_pieces(request))


def _pieces(request: Mapping[str, Any]) -> Iterator[str]:
    for name in _PARTS:
        value = request.get(name)
        if isinstance(value, str):
            yield value
        elif isinstance(value, list) and name == "prompt" and value:
            yield _first(value)
        elif value:
            yield json.dumps(value)


def _first(prompts: list[Any]) -> str:
    """Return the first of several prompts, which is a text, or numbers of tokens."""
    first = prompts[0]
    if isinstance(first, str):
        return first
    return " ".join(map(str, first if isinstance(first, list) else prompts))


def _hash(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=12).digest()
