"""Generated text as the assistant's messages: complete, or as a stream of events."""

import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from pipelines.serving.generation.generation import Delta, Steps
from pipelines.serving.generation.stream import Stream
from pipelines.serving.http.logprobs import chat_logprobs
from pipelines.serving.http.merging import gathered, merged
from pipelines.serving.http.usage import Counting, counted
from pipelines.serving.http.watching import watched
from pipelines.serving.http.weights import named, over
from pipelines.serving.protocol.replies import (
    Answer,
    CallDelta,
    CalledFunction,
    CallReply,
    Chat,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatFinish,
    ChatLogprobs,
    Usage,
)
from pipelines.serving.protocol.requests import ChatRequest
from pipelines.serving.telemetry import Telemetry
from pipelines.serving.text.text import Text
from pipelines.serving.tools.calls import Call
from pipelines.serving.tools.reader import Reader


class ChatAnswer:
    """Answers ``/v1/chat/completions``; ``reader`` makes what finds the calls of one choice."""

    def __init__(
        self,
        request: ChatRequest,
        text: Text,
        streams: Sequence[Stream],
        telemetry: Telemetry,
        reader: Callable[[], Reader],
    ) -> None:
        self.streams = streams
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._request = request
        self._text = text
        self._deltas = [watched(stream, telemetry) for stream in streams]
        most = None if request.parallel_tool_calls else 1
        self._said = [_Said(reader(), most) for _ in streams]
        self._counting = Counting([stream.generation for stream in streams[:1]])

    async def whole(self) -> Chat:
        """Return the assistant's messages."""
        choices, ends = [], await gathered(self._deltas)
        for number, end in enumerate(ends):
            self._counting.count(number, end.generated)
            content, calls = self._said[number].read(end)
            finish = self._said[number].finish(end)
            assert finish is not None
            choices.append(
                ChatChoice(
                    index=number,
                    message=_message(content, calls),
                    logprobs=self._logprobs(end),
                    finish_reason=finish,
                )
            )
        reply = Chat(
            id=self._id,
            object="chat.completion",
            created=self._created,
            model=self._request.model,
            choices=choices,
            usage=self._counting.usage,
        )
        return named(reply, over(end.steps for end in ends))

    async def pieces(self) -> AsyncIterator[ChatChunk]:
        """Yield the role of each message with its first text, then text and calls as they come."""
        async for number, delta in merged(self._deltas):
            self._counting.count(number, delta.generated)
            choice = self._choice(number, delta)
            if choice is not None:
                usage = self._counting.usage if self._request.continuous_usage else None
                yield self._chunk([choice], delta.steps, usage)
        if self._request.include_usage:
            yield self._chunk(
                [], over(s.generation.steps for s in self.streams), self._counting.usage
            )

    def _choice(self, number: int, delta: Delta) -> ChatChunkChoice | None:
        """Return the event of a delta; None if it says nothing."""
        said = self._said[number]
        first, before = not said.begun, len(said.calls)
        content, calls = said.read(delta)
        logprobs = self._logprobs(delta)
        silent = not content and not calls and logprobs is None
        if silent and not first and delta.finish is None:
            return None
        return ChatChunkChoice(
            index=number,
            delta=_part(content, calls, before, first),
            logprobs=logprobs,
            finish_reason=said.finish(delta),
        )

    def _logprobs(self, delta: Delta) -> ChatLogprobs | None:
        return chat_logprobs(self._text, delta.tokens) if self._request.logprobs else None

    def _chunk(
        self, choices: list[ChatChunkChoice], steps: Steps | None, usage: Usage | None = None
    ) -> ChatChunk:
        chunk = ChatChunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._request.model,
            choices=choices,
        )
        return counted(named(chunk, steps), usage)


@dataclass(slots=True)
class _Said:
    """What one choice has said so far; calls after the ``most`` first are dropped."""

    reader: Reader
    most: int | None
    calls: list[Call] = field(default_factory=list)
    begun: bool = False

    def read(self, delta: Delta) -> tuple[str, list[Call]]:
        """Return the text and the calls that a delta completes."""
        self.begun = True
        pieces = self.reader.push(delta.text)
        if delta.finish is not None:
            pieces += self.reader.finish()
        room = None if self.most is None else self.most - len(self.calls)
        calls = [piece for piece in pieces if isinstance(piece, Call)][:room]
        self.calls += calls
        return "".join(piece for piece in pieces if isinstance(piece, str)), calls

    def finish(self, delta: Delta) -> ChatFinish | None:
        """Return why a message ends with a delta; None if it goes on."""
        return "tool_calls" if delta.finish == "stop" and self.calls else delta.finish


def _message(content: str, calls: Sequence[Call]) -> Answer:
    if not calls:
        return Answer(role="assistant", content=content)
    replies = [CallReply(id=call.id, type="function", function=_function(call)) for call in calls]
    return Answer(role="assistant", content=content or None, tool_calls=replies)


def _part(content: str, calls: Sequence[Call], before: int, first: bool) -> Answer:
    """Return the new part of a message; calls have numbers from ``before`` on."""
    said: dict[str, object] = {"role": "assistant", "content": content} if first else {}
    if content:
        said["content"] = content
    if calls:
        said["tool_calls"] = [
            CallDelta(index=before + n, id=call.id, type="function", function=_function(call))
            for n, call in enumerate(calls)
        ]
    return Answer.model_validate(said)


def _function(call: Call) -> CalledFunction:
    return CalledFunction(name=call.name, arguments=call.arguments)
