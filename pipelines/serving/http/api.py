"""The HTTP application: routes, and the clients that leave."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from starlette.middleware.cors import CORSMiddleware

import moe
from pipelines.serving.access import Access
from pipelines.serving.generation.stream import Stream
from pipelines.serving.http.adapters import add_adapters
from pipelines.serving.http.bodies import JsonBodies
from pipelines.serving.http.chats import ChatAnswer
from pipelines.serving.http.completions import CompletionAnswer
from pipelines.serving.http.errors import add_errors, json_response
from pipelines.serving.http.events import EventStream, primed
from pipelines.serving.http.keys import ApiKeys
from pipelines.serving.http.leaving import unless_gone
from pipelines.serving.http.request_ids import HEADER, RequestIds
from pipelines.serving.http.turns import TurnAnswer
from pipelines.serving.http.weights import STEP_HEADER, headers
from pipelines.serving.protocol.replies import (
    Chat,
    Completion,
    ErrorBody,
    Health,
    Model,
    ModelList,
    Reply,
)
from pipelines.serving.protocol.requests import ChatRequest, CompletionRequest
from pipelines.serving.protocol.tokens import (
    Detokenized,
    DetokenizeRequest,
    Tokenized,
    TokenizeRequest,
    TokenizerInfo,
)
from pipelines.serving.protocol.turn_replies import Turn
from pipelines.serving.protocol.turns import TurnRequest
from pipelines.serving.service import Service
from pipelines.serving.telemetry import CONTENT_TYPE

CLOSE_SECONDS = 30.0
"""Seconds that the engine may take to end when the server stops."""

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is refused"},
    "5XX": {"model": ErrorBody, "description": "The server failed"},
}

EVENTS: dict[int | str, dict[str, Any]] = ERRORS | {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
"""Answers that may come as events."""

FIGURES: dict[int | str, dict[str, Any]] = ERRORS | {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}
"""The text form of Prometheus."""


class Answering(Protocol):
    """Turns the streams of one request into replies."""

    @property
    def streams(self) -> Sequence[Stream]:
        """The generations behind the answer."""

    async def whole(self) -> Reply:
        """Wait for the end and return one reply."""

    def pieces(self) -> AsyncIterator[Reply]:
        """Yield the events of a stream."""


def create_app(service: Service, access: Access | None = None) -> FastAPI:
    """Return the application; it closes the service when it stops."""
    access = access or Access()
    app = answering_app(service)
    if service.adapters is not None and access.loads_adapters:
        add_adapters(app, service.adapters, ERRORS)
    add_access(app, access)
    return app


def answering_app(service: Service) -> FastAPI:
    """Return the application for whoever is let in already."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close, CLOSE_SECONDS)

    app = FastAPI(title="raymoe", version=moe.__version__, lifespan=lifespan)
    app.add_middleware(JsonBodies, most_bytes=service.body_bytes)
    _add_answers(app, service)
    _add_tokens(app, service)
    _add_status(app, service)
    add_errors(app)
    return app


def add_access(app: FastAPI, access: Access) -> None:
    """Add the middleware; what is added last sees a request first."""
    if access.keys:
        app.add_middleware(ApiKeys, keys=access.keys)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=access.origins,
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=("*",),
        expose_headers=("Retry-After", HEADER, STEP_HEADER),
    )
    if access.request_ids:
        app.add_middleware(RequestIds)


def health_response(health: Health) -> Response:
    """Return the reply of ``/health``; with 503, whoever checks brings no requests here."""
    down = health.status in ("rebuilding", "failed")
    return json_response(health.model_dump(), 503 if down else 200)


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions", response_model=Completion, responses=EVENTS)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        jobs = await asyncio.to_thread(service.completion_jobs, body)
        streams = service.open(jobs)
        answer = CompletionAnswer(body, service.text, streams, service.telemetry)
        return await _respond(request, answer, body.stream)

    @app.post("/v1/chat/completions", response_model=Chat, responses=EVENTS)
    async def chat(body: ChatRequest, request: Request) -> Response:
        jobs = await asyncio.to_thread(service.chat_jobs, body)
        streams = service.open(jobs)
        answer = ChatAnswer(
            body, service.text, streams, service.telemetry, lambda: service.reader(body)
        )
        return await _respond(request, answer, body.stream)

    @app.post("/v1/responses", response_model=Turn, responses=EVENTS)
    async def responses(body: TurnRequest, request: Request) -> Response:
        chat = body.chat()
        (stream,) = service.open(await asyncio.to_thread(service.chat_jobs, chat))
        answer = TurnAnswer(body, service.text, stream, service.telemetry, service.reader(chat))
        return await _respond(request, answer, body.stream)


def _add_tokens(app: FastAPI, service: Service) -> None:
    @app.post("/tokenize", response_model_exclude_unset=True, responses=ERRORS)
    async def tokenize(body: TokenizeRequest) -> Tokenized:
        return await asyncio.to_thread(service.tokenize, body)

    @app.post("/detokenize", responses=ERRORS)
    async def detokenize(body: DetokenizeRequest) -> Detokenized:
        return await asyncio.to_thread(service.detokenize, body)

    @app.get("/tokenizer_info", responses=ERRORS)
    async def tokenizer_info() -> TokenizerInfo:
        return service.tokenizer_info()


def _add_status(app: FastAPI, service: Service) -> None:
    @app.head("/v1/models", include_in_schema=False)
    @app.get("/v1/models", responses=ERRORS)
    async def models() -> ModelList:
        return ModelList(object="list", data=service.models())

    @app.head("/v1/models/{name:path}", include_in_schema=False)
    @app.get("/v1/models/{name:path}", responses=ERRORS)
    async def model(name: str) -> Model:
        service.adapter(name)
        return next(each for each in service.models() if each.id == name)

    @app.head("/health", include_in_schema=False)
    @app.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health() -> Response:
        return health_response(service.health)

    @app.get("/metrics", response_class=Response, responses=FIGURES)
    async def metrics() -> Response:
        return Response(service.figures(), headers={"Content-Type": CONTENT_TYPE})


async def _respond(request: Request, answer: Answering, stream: bool) -> Response:
    """Answer with one reply or with events; cancel the generations after any error.

    A stream starts with its first event, so that an error before it still has its HTTP status.
    """
    try:
        if stream:
            events = await unless_gone(request.receive, primed(answer.pieces()))
            return EventStream(events, answer.streams)
        reply = await unless_gone(request.receive, answer.whole())
        return Response(
            reply.json_text(), headers=headers(answer.streams), media_type="application/json"
        )
    except BaseException:
        for each in answer.streams:
            each.cancel()
        raise
