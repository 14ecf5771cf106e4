"""The HTTP application: routes, error bodies, server-sent events, disconnected clients."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

import moe
from pipelines.serving.http.answers import Answering, ChatAnswer, CompletionAnswer
from pipelines.serving.http.bodies import JsonBodies
from pipelines.serving.http.events import EventStream, primed
from pipelines.serving.protocol.replies import (
    Chat,
    Completion,
    ErrorBody,
    Health,
    Model,
    ModelList,
)
from pipelines.serving.protocol.requests import ChatRequest, CompletionRequest
from pipelines.serving.refusals import (
    BadRequest,
    Refusal,
    body_of,
    error_body,
)
from pipelines.serving.service import Service

T = TypeVar("T")

CLOSE_SECONDS = 30.0
"""Seconds that the engine may take to end when the server stops."""

CLIENT_GONE = 499
RETRY_SECONDS = {429: 1, 503: 2}
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is refused"},
    "5XX": {"model": ErrorBody, "description": "The server failed"},
}


def create_app(service: Service, allowed_origins: Sequence[str] = ("*",)) -> FastAPI:
    """Return the application; it closes the service when it stops.

    Web pages of ``allowed_origins`` may call it from a browser; ``*`` allows any page.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close, CLOSE_SECONDS)

    app = FastAPI(title="raymoe", version=moe.__version__, lifespan=lifespan)
    app.add_middleware(JsonBodies, most_bytes=service.body_bytes)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=allowed_origins,
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=("*",),
        expose_headers=("Retry-After",),
    )
    _add_answers(app, service)
    _add_status(app, service)
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(Exception, _on_bug)
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions", response_model=Completion, responses=ERRORS)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        jobs = await asyncio.to_thread(service.completion_jobs, body)
        answer = CompletionAnswer(body, service.text, service.open(jobs))
        return await _respond(request, answer, body.stream)

    @app.post("/v1/chat/completions", response_model=Chat, responses=ERRORS)
    async def chat(body: ChatRequest, request: Request) -> Response:
        job = await asyncio.to_thread(service.chat_job, body)
        answer = ChatAnswer(body, service.text, *service.open([job]))
        return await _respond(request, answer, body.stream)


def _add_status(app: FastAPI, service: Service) -> None:
    def described() -> Model:
        return Model(id=service.name, object="model", created=service.created, owned_by="raymoe")

    @app.head("/v1/models", include_in_schema=False)
    @app.get("/v1/models", responses=ERRORS)
    async def models() -> ModelList:
        return ModelList(object="list", data=[described()])

    @app.head("/v1/models/{name:path}", include_in_schema=False)
    @app.get("/v1/models/{name:path}", responses=ERRORS)
    async def model(name: str) -> Model:
        service.check_model(name)
        return described()

    @app.head("/health", include_in_schema=False)
    @app.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health() -> Response:
        status = service.status
        body = Health(status=status.state, running=status.running, waiting=status.waiting)
        return _json(body.model_dump(), 200 if status.state in ("serving", "mending") else 503)


async def _respond(request: Request, answer: Answering, stream: bool) -> Response:
    """Answer with one reply or with events; cancel the generations after any error.

    A stream starts with its first event, so that an error before it still has its HTTP status.
    """
    try:
        if stream:
            events = await _unless_gone(request, primed(answer.pieces()))
            return EventStream(events, answer.streams)
        reply = await _unless_gone(request, answer.whole())
        return Response(reply.json_text(), media_type="application/json")
    except BaseException:
        for each in answer.streams:
            each.cancel()
        raise


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Wait for work; cancel it when the client closes the connection."""
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.wait((working, gone))


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _on_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    seconds = RETRY_SECONDS.get(error.status)
    headers = None if seconds is None else {"Retry-After": str(seconds)}
    return _json(body_of(error), error.status, headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _on_refusal(request, refusal_of(error))


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    unread = error.status_code == 400 and error.__cause__ is not None
    said = _unread(error.__cause__) if unread else error.detail
    return _json(error_body(said, "invalid_request_error"), error.status_code, error.headers)


async def _on_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _on_bug(_: Request, __: Exception) -> Response:
    body = error_body("the server failed; its log tells more", "server_error")
    return _json(body, 500)


def _json(body: Any, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON in ASCII, because a message may quote invalid Unicode from a request."""
    return Response(json.dumps(body), status, headers, "application/json")


def refusal_of(error: RequestValidationError) -> BadRequest:
    """Return a refusal that names the wrong field of the body and the fault."""
    fault: Mapping[str, Any] = error.errors()[0]
    if fault["type"] == "json_invalid":
        return BadRequest(f"the body is not JSON: {fault['ctx']['error']}; send a JSON object")
    context = fault.get("ctx", {})
    path = [str(part) for part in fault["loc"][1:]]
    path += [context["param"]] if "param" in context else []
    param = ".".join(path) or None
    if param is None and fault["type"] in ("missing", "model_attributes_type"):
        found = "missing or null" if fault["input"] is None else _shown(fault["input"])
        return BadRequest(f"the body is {found}; send a JSON object")
    if fault["type"] == "missing":
        return BadRequest(f"{param} is missing", param)
    found = "" if fault["type"] == "raymoe" else f"; found {_shown(fault['input'])}"
    return BadRequest(f"{param or 'the body'}: {fault['msg']}{found}", param)


def _unread(cause: BaseException | None) -> str:
    """Return why a complete body could not be read as JSON."""
    if isinstance(cause, UnicodeDecodeError):
        return f"the body is not UTF-8 text: byte {cause.start} of it; send JSON, uncompressed"
    if isinstance(cause, RecursionError):
        return "the body is nested too deep; send a JSON object of the API"
    return "the body has a number with too many digits; send numbers that the API accepts"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
