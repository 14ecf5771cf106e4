"""Generated text as completions: complete, or as a stream of events."""

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from statistics import fmean

from pipelines.serving.generation.generation import Delta, Steps
from pipelines.serving.generation.stream import Stream
from pipelines.serving.http.echo import Echo, echo_of
from pipelines.serving.http.logprobs import completion_logprobs
from pipelines.serving.http.merging import gathered, merged
from pipelines.serving.http.usage import Counting, counted
from pipelines.serving.http.watching import watched
from pipelines.serving.http.weights import named, over
from pipelines.serving.protocol.replies import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Usage,
)
from pipelines.serving.protocol.requests import CompletionRequest
from pipelines.serving.telemetry import Telemetry
from pipelines.serving.text.text import Text


class CompletionAnswer:
    """Answers ``/v1/completions``: n choices for each prompt, in the order of the prompts."""

    def __init__(
        self,
        request: CompletionRequest,
        text: Text,
        streams: Sequence[Stream],
        telemetry: Telemetry,
    ) -> None:
        self.streams = streams
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._request = request
        self._text = text
        self._echoes: dict[int, Echo] = {}
        self._deltas = [watched(stream, telemetry) for stream in streams]
        self._counting = Counting([stream.generation for stream in streams[:: request.draws]])

    async def whole(self) -> Completion:
        """Return all choices."""
        ends = [self._limited(end) for end in await gathered(self._deltas)]
        for number, end in enumerate(ends):
            self._counting.count(number, end.generated)
        choices = [
            self._choice(index, number, ends[number], first=True)
            for index, number in enumerate(self._chosen(ends))
        ]
        return self._reply(choices, over(end.steps for end in ends), self._counting.usage)

    async def pieces(self) -> AsyncIterator[Completion]:
        """Yield the text of all choices as it arrives."""
        begun: set[int] = set()
        async for number, delta in merged(self._deltas):
            delta = self._limited(delta)
            self._counting.count(number, delta.generated)
            usage = self._counting.usage if self._request.continuous_usage else None
            choice = self._choice(number, number, delta, first=number not in begun)
            begun.add(number)
            yield self._reply([choice], delta.steps, usage)
        if self._request.include_usage:
            yield self._reply(
                [], over(s.generation.steps for s in self.streams), self._counting.usage
            )

    def _chosen(self, ends: Sequence[Delta]) -> list[int]:
        """Return the numbers of the n likeliest answers to each prompt, by token."""
        draws, n = self._request.draws, self._request.n
        if draws == n:
            return list(range(len(ends)))
        chosen: list[int] = []
        for start in range(0, len(ends), draws):
            group = range(start, start + draws)
            chosen += sorted(group, key=lambda number: -_mean_logprob(ends[number]))[:n]
        return chosen

    def _limited(self, delta: Delta) -> Delta:
        """Return a delta; without its token where the echo alone was asked for."""
        if self._request.limit != 0:
            return delta
        return replace(delta, text="", tokens=(), generated=0, finish=delta.finish and "length")

    def _choice(self, index: int, number: int, delta: Delta, first: bool) -> CompletionChoice:
        echo = self._echo(number) if self._request.echo else None
        before = echo.text if echo is not None and first else ""
        return CompletionChoice(
            index=index,
            text=before + delta.text,
            logprobs=self._logprobs(number, delta, echo, first),
            finish_reason=delta.finish,
        )

    def _logprobs(
        self, number: int, delta: Delta, echo: Echo | None, first: bool
    ) -> CompletionLogprobs | None:
        if self._request.logprobs is None:
            return None
        alternatives = self._request.logprobs > 0
        start = 0 if echo is None else len(echo.text)
        found = completion_logprobs(self._text, delta.tokens, alternatives, start)
        if echo is None or not first:
            return found
        return echo.logprobs(self._text, self.streams[number].generation, found, alternatives)

    def _echo(self, number: int) -> Echo:
        """Return the prompt of a stream; it is read once."""
        place = number // self._request.draws
        if place not in self._echoes:
            tokens = self.streams[number].generation.job.prompt
            self._echoes[place] = echo_of(self._text, self._request.prompt[place], tokens)
        return self._echoes[place]

    def _reply(
        self, choices: list[CompletionChoice], steps: Steps | None, usage: Usage | None = None
    ) -> Completion:
        reply = Completion(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=self._request.model,
            choices=choices,
        )
        return counted(named(reply, steps), usage)


def _mean_logprob(end: Delta) -> float:
    return fmean(token.sampled.logprob for token in end.tokens) if end.tokens else 0.0
