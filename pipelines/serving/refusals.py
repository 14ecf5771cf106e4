"""Errors of requests: one class per HTTP status.

Refusal          has the status and the fields of the OpenAI error body
  BadRequest     400, also a RequestError: the same request fails again
  UnknownModel   404, likewise
  Overloaded     429: try again later
  Failed         500: the model or the server is at fault
  Unavailable    503: the engine is down; try again
    Asleep       503, too: nothing is loaded; try again later
  Overdue        504: the answer took longer than a request may
"""

from typing import Any, ClassVar

from moe.errors import RaymoeError, RequestError


class Refusal(RaymoeError):
    """A request that gets an error body; ``param`` names the field at fault.

    A client should wait ``retry_seconds`` before it tries again; None: the same fails again.
    """

    status: ClassVar[int]
    kind: ClassVar[str]
    retry_seconds: ClassVar[int | None] = None

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param, code)
        self.message = message
        self.param = param
        self.code = code

    def __str__(self) -> str:
        return self.message


class BadRequest(Refusal, RequestError):
    """The request is wrong."""

    status = 400
    kind = "invalid_request_error"


class UnknownModel(Refusal, RequestError):
    """The request names a model that is not served here."""

    status = 404
    kind = "invalid_request_error"


class Overloaded(Refusal):
    """The queue is full."""

    status = 429
    kind = "rate_limit_error"
    retry_seconds = 1


class Failed(Refusal):
    """The request was correct, but its computation failed."""

    status = 500
    kind = "server_error"


class Unavailable(Refusal):
    """The engine is lost and is being rebuilt."""

    status = 503
    kind = "service_unavailable_error"
    retry_seconds = 2


class Asleep(Unavailable):
    """No replica is there; one is being started."""

    retry_seconds = 15


class Overdue(Refusal):
    """The request exceeded its time limit."""

    status = 504
    kind = "timeout_error"


def error_body(
    message: str, kind: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return the body that OpenAI clients understand."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def body_of(refusal: Refusal) -> dict[str, Any]:
    """Return the body of a refusal."""
    return error_body(refusal.message, refusal.kind, refusal.param, refusal.code)
