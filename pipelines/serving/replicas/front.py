"""The front of several replicas: brings requests to them and answers back, and tells of all.

It reads no more of a request than how its prompt begins. A request whose replica is lost before its
answer begins is brought to another; an answer that has begun ends with an error that clients read.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from fastapi import FastAPI, Response
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from moe.errors import RaymoeError
from pipelines.serving.access import Access
from pipelines.serving.http.api import add_access, health_response
from pipelines.serving.http.bodies import JsonBodies
from pipelines.serving.http.errors import add_errors
from pipelines.serving.http.events import error_event
from pipelines.serving.http.leaving import unless_gone
from pipelines.serving.protocol.replies import Health
from pipelines.serving.refusals import Overdue, Unavailable
from pipelines.serving.replicas.asked import Asked
from pipelines.serving.replicas.figures import Figures, together
from pipelines.serving.replicas.prompts import beginnings
from pipelines.serving.telemetry import CONTENT_TYPE

TRIES = 3
"""Replicas that a request is brought to, one after the other, while it is not answered."""

_LOST = "the replica that answered was lost; send the request again"


class ReplicaLost(RaymoeError):
    """A replica ended while it answered."""


class Replicas(Protocol):
    """The replicas of one model."""

    def answer(self, asked: Asked) -> AsyncGenerator[Sequence[Message], None]:
        """Yield what one of the replicas sends in answer; ReplicaLost where it ends meanwhile."""

    async def awake(self) -> None:
        """Return once there is a replica, or raise Asleep."""

    async def states(self) -> Sequence[Health]:
        """Return how each replica is that answers."""

    async def figures(self) -> Sequence[Figures]:
        """Return the figures of each replica that answers."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a front brings requests to replicas.

    Bodies of more than ``most_bytes`` are refused; an answer must begin within ``seconds``.
    ``by_prefix`` tells how a prompt begins. ``refuses``: while there is no replica, requests are
    refused, and the first starts one.
    """

    access: Access
    most_bytes: int
    seconds: float
    by_prefix: bool
    refuses: bool


def create_front(replicas: Replicas, manner: Manner) -> FastAPI:
    """Return the application in front of replicas."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(JsonBodies, most_bytes=manner.most_bytes)
    add_access(app, manner.access)
    add_errors(app)

    @app.head("/health")
    @app.get("/health")
    async def health() -> Response:
        return health_response(_summed(await replicas.states()))

    @app.get("/metrics")
    async def metrics() -> Response:
        text = together(await replicas.figures())
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    app.mount("/", _Forwarding(replicas, manner))
    return app


_BEST = ("serving", "mending", "rebuilding", "failed")


def _summed(states: Sequence[Health]) -> Health:
    """Return the state of all: that of the best, and what they do together."""
    best = next((each for each in _BEST if each in {state.status for state in states}), "asleep")
    return Health.model_validate(
        {
            "status": best,
            "running": sum(each.running for each in states),
            "waiting": sum(each.waiting for each in states),
            "replicas": len(states),
        }
    )


class _Forwarding:
    """Brings each request to a replica."""

    def __init__(self, replicas: Replicas, manner: Manner) -> None:
        self._replicas = replicas
        self._manner = manner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        names = beginnings(body) if self._manner.by_prefix and body else ()
        asked = Asked(
            scope["method"],
            scope["path"],
            scope["query_string"],
            tuple(scope["headers"]),
            body,
            names,
        )
        await self._replicas.awake()
        answer = _Answer(send)
        try:
            await unless_gone(receive, self._answer(asked, answer))
        except ClientDisconnect:
            if not answer.begun:
                raise

    async def _answer(self, asked: Asked, answer: "_Answer") -> None:
        for _ in range(TRIES):
            try:
                await self._pass(asked, answer)
            except ReplicaLost:
                if answer.begun:
                    await answer.break_off()
                    return
            else:
                return
        raise Unavailable(_LOST)

    async def _pass(self, asked: Asked, answer: "_Answer") -> None:
        """Pass an answer on as it comes; Overdue where it does not begin in time."""
        seconds = self._manner.seconds
        async with aclosing(self._replicas.answer(asked)) as messages:
            try:
                async with asyncio.timeout(seconds):
                    first = await anext(messages)
            except TimeoutError:
                raise Overdue(
                    f"no replica answered within the {seconds:g} seconds that a request may take"
                ) from None
            await answer.send(first)
            while not answer.complete:
                await answer.send(await anext(messages))


class _Answer:
    """An answer on its way to the client."""

    def __init__(self, send: Send) -> None:
        self.begun = self.complete = False
        self._send = send
        self._events = False

    async def send(self, messages: Sequence[Message]) -> None:
        """Send messages on."""
        for message in messages:
            if message["type"] == "http.response.start":
                self._events = _is_of_events(message)
            self.begun = True
            await self._send(message)
        self.complete = not messages[-1].get("more_body", False)

    async def break_off(self) -> None:
        """End with an error event; an answer of another kind cannot say that it is incomplete."""
        if not self._events:
            raise Unavailable(_LOST)
        event = error_event(Unavailable(_LOST)).encode()
        await self._send({"type": "http.response.body", "body": event, "more_body": False})


def _is_of_events(message: Message) -> bool:
    kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
    return any(kind.startswith(b"text/event-stream") for kind in kinds)


async def _body(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)
