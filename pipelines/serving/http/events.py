"""Server-sent events: replies on the wire, one at a time."""

from collections.abc import AsyncIterator, Sequence

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from pipelines.serving.generation.stream import Stream
from pipelines.serving.http.weights import headers
from pipelines.serving.protocol.replies import ErrorBody, Reply
from pipelines.serving.refusals import Refusal, body_of

DONE = "data: [DONE]\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Ask proxies not to buffer events."""


class EventStream(StreamingResponse):
    """The response of a stream; when the response ends, for any reason, its generations end too."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], streams: Sequence[Stream]) -> None:
        super().__init__(events, headers=HEADERS | headers(streams))
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for stream in self._streams:
                stream.cancel()


async def primed(replies: AsyncIterator[Reply]) -> AsyncIterator[str]:
    """Wait for the first reply, so that its refusal is raised here; return all replies as
    events.
    """
    return _events(await anext(replies), replies)


async def _events(first: Reply, rest: AsyncIterator[Reply]) -> AsyncIterator[str]:
    """Yield events; a refusal within the stream is the last event."""
    yield _event(first)
    try:
        async for reply in rest:
            yield _event(reply)
    except Refusal as refusal:
        yield error_event(refusal)
    else:
        yield DONE


def error_event(refusal: Refusal) -> str:
    """Return the event with which a stream ends that cannot go on."""
    return _event(ErrorBody.model_validate(body_of(refusal)))


def _event(reply: Reply) -> str:
    name = f"event: {reply.event_name}\n" if reply.event_name else ""
    return f"{name}data: {reply.json_text()}\n\n"
