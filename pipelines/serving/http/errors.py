"""Errors as answers: every one has the body that OpenAI clients read."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipelines.serving.refusals import BadRequest, Refusal, body_of, error_body

CLIENT_GONE = 499


def add_errors(app: FastAPI) -> None:
    """Have an application answer its errors."""
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(Exception, _on_bug)


def json_response(body: Any, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON in ASCII, because a message may quote invalid Unicode from a request."""
    return Response(json.dumps(body), status, headers, "application/json")


async def _on_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    seconds = error.retry_seconds
    headers = None if seconds is None else {"Retry-After": str(seconds)}
    return json_response(body_of(error), error.status, headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _on_refusal(request, refusal_of(error))


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    unread = error.status_code == 400 and error.__cause__ is not None
    said = _unread(error.__cause__) if unread else error.detail
    return json_response(
        error_body(said, "invalid_request_error"), error.status_code, error.headers
    )


async def _on_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _on_bug(_: Request, __: Exception) -> Response:
    body = error_body("the server failed; its log tells more", "server_error")
    return json_response(body, 500)


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
