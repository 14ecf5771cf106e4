"""Generated text as replies: complete, or as a stream of events."""

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from pipelines.serving.generation.generation import Delta, TextToken
from pipelines.serving.generation.stream import Stream
from pipelines.serving.http.logprobs import chat_logprobs, completion_logprobs
from pipelines.serving.protocol.replies import (
    Answer,
    Chat,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatLogprobs,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Reply,
    Usage,
)
from pipelines.serving.protocol.requests import ChatRequest, CompletionRequest
from pipelines.serving.text.text import Text


class Answering(Protocol):
    """Turns the streams of one request into replies."""

    @property
    def streams(self) -> Sequence[Stream]:
        """The generations behind the answer."""

    async def whole(self) -> Reply:
        """Wait for the end and return one reply."""

    def pieces(self) -> AsyncIterator[Reply]:
        """Yield the events of a stream."""


class CompletionAnswer:
    """Answers ``/v1/completions``: one choice for each prompt, in their order."""

    def __init__(self, request: CompletionRequest, text: Text, streams: Sequence[Stream]) -> None:
        self.streams = streams
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._request = request
        self._text = text

    async def whole(self) -> Completion:
        """Return all choices."""
        ends = [await _gathered(stream) for stream in self.streams]
        choices = [self._choice(index, end) for index, end in enumerate(ends)]
        return self._reply(choices, _usage(self.streams, ends))

    async def pieces(self) -> AsyncIterator[Completion]:
        """Yield text as it arrives; prompt after prompt, in the order of generation."""
        ends = []
        for index, stream in enumerate(self.streams):
            async for delta in stream:
                yield self._reply([self._choice(index, delta)])
            ends.append(delta)
        if self._request.include_usage:
            yield self._reply([], _usage(self.streams, ends))

    def _choice(self, index: int, delta: Delta) -> CompletionChoice:
        return CompletionChoice(
            index=index,
            text=delta.text,
            logprobs=self._logprobs(delta.tokens),
            finish_reason=delta.finish,
        )

    def _logprobs(self, tokens: Sequence[TextToken]) -> CompletionLogprobs | None:
        if self._request.logprobs is None:
            return None
        return completion_logprobs(self._text, tokens, alternatives=self._request.logprobs > 0)

    def _reply(self, choices: list[CompletionChoice], usage: Usage | None = None) -> Completion:
        reply = Completion(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=self._request.model,
            choices=choices,
        )
        return reply if usage is None else reply.model_copy(update={"usage": usage})


class ChatAnswer:
    """Answers ``/v1/chat/completions``."""

    def __init__(self, request: ChatRequest, text: Text, stream: Stream) -> None:
        self.streams = (stream,)
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._stream = stream
        self._request = request
        self._text = text

    async def whole(self) -> Chat:
        """Return the assistant's message."""
        end = await _gathered(self._stream)
        assert end.finish is not None
        choice = ChatChoice(
            index=0,
            message=Answer(role="assistant", content=end.text),
            logprobs=self._logprobs(end.tokens),
            finish_reason=end.finish,
        )
        return Chat(
            id=self._id,
            object="chat.completion",
            created=self._created,
            model=self._request.model,
            choices=[choice],
            usage=_usage(self.streams, [end]),
        )

    async def pieces(self) -> AsyncIterator[ChatChunk]:
        """Yield the role with the first text, then text as it arrives."""
        first = True
        async for delta in self._stream:
            answer = Answer(role="assistant", content=delta.text) if first else _more(delta)
            first = False
            yield self._chunk([self._choice(delta, answer)])
        if self._request.include_usage:
            yield self._chunk([], _usage(self.streams, [delta]))

    def _choice(self, delta: Delta, answer: Answer) -> ChatChunkChoice:
        return ChatChunkChoice(
            index=0,
            delta=answer,
            logprobs=self._logprobs(delta.tokens),
            finish_reason=delta.finish,
        )

    def _logprobs(self, tokens: Sequence[TextToken]) -> ChatLogprobs | None:
        return chat_logprobs(self._text, tokens) if self._request.logprobs else None

    def _chunk(self, choices: list[ChatChunkChoice], usage: Usage | None = None) -> ChatChunk:
        chunk = ChatChunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._request.model,
            choices=choices,
        )
        return chunk if usage is None else chunk.model_copy(update={"usage": usage})


async def _gathered(stream: Stream) -> Delta:
    """Return all deltas of a stream as one."""
    deltas = [delta async for delta in stream]
    return Delta(
        text="".join(delta.text for delta in deltas),
        tokens=tuple(token for delta in deltas for token in delta.tokens),
        generated=deltas[-1].generated,
        finish=deltas[-1].finish,
    )


def _more(delta: Delta) -> Answer:
    return Answer(content=delta.text) if delta.text else Answer()


def _usage(streams: Sequence[Stream], ends: Sequence[Delta]) -> Usage:
    prompt = sum(len(stream.generation.job.prompt) for stream in streams)
    completion = sum(end.generated for end in ends)
    return Usage(
        prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
    )
