"""A server of the OpenAI API that answers as a script says, right or wrong, over real HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tests import servers

Script = Callable[[dict[str, Any]], AsyncIterator[str] | Response]


class Scripted:
    """The bodies and the headers that were sent, and how many streams were read to their end."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.ended = 0
        self.most_at_once = 0
        self._open = 0
        self.url: str

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.paths.append(request.url.path)
        found = self.script(body)
        if isinstance(found, Response):
            return found
        return StreamingResponse(self._counted(found), media_type="text/event-stream")

    async def _counted(self, events: AsyncIterator[str]) -> AsyncIterator[str]:
        self._open += 1
        self.most_at_once = max(self.most_at_once, self._open)
        try:
            async for event in events:
                yield event
            self.ended += 1
        finally:
            self._open -= 1


@contextmanager
def scripted(script: Script) -> Iterator[Scripted]:
    """Serve a script."""
    server = Scripted(script)
    app = FastAPI()
    for path in ("/v1/completions", "/v1/chat/completions"):
        app.post(path)(server.answer)
    app.get("/v1/models")(lambda: {"object": "list", "data": [{"id": "scripted"}]})
    with servers.running(app) as url:
        server.url = f"{url}/v1"
        yield server


def event(table: dict[str, Any]) -> str:
    return f"data: {json.dumps(table)}\n\n"


def piece(text: str, finish: str | None = None) -> str:
    """Return an event of a completion."""
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish}]})


def usage(prompt: int, output: int) -> str:
    """Return the event that counts."""
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output}})


DONE = "data: [DONE]\n\n"


def refusal(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message}}, status)


async def told(*events: str, wait: float = 0.0) -> AsyncIterator[str]:
    """Send events, each after a wait."""
    for each in events:
        await asyncio.sleep(wait)
        yield each


def counting(tokens: int, wait: float = 0.0, finish: str = "length") -> AsyncIterator[str]:
    """Send so many words, as a good server does."""
    words = [piece(f" w{number}") for number in range(tokens - 1)]
    last = piece(f" w{tokens - 1}", finish)
    return told(*words, last, usage(5, tokens), DONE, wait=wait)
