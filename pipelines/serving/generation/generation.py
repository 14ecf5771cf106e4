"""The progress of one request: the next input of the engine, and the text of its tokens so far.

A generation does no I/O, so a scheduler may drive one generation or many.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from moe.config.sampling import SampledToken, Sampling
from moe.errors import RequestError
from moe.nn.sampling import Draw
from pipelines.serving.generation.constraint import Constraint
from pipelines.serving.text.detokenize import Detokenizer
from pipelines.serving.text.stops import StopFilter

FinishReason = Literal["stop", "length"]


class Engine(Protocol):
    """The model as the server uses it: it extends sequences of tokens. Calls block."""

    def infer(self, sequence: str, tokens: Sequence[int], draw: Draw) -> SampledToken:
        """Append tokens to a sequence and return the token that follows."""

    def release(self, sequence: str) -> None:
        """Forget a sequence."""

    def healthy(self) -> bool:
        """Return whether every rank is alive."""

    def shutdown(self) -> None:
        """End the ranks."""


@runtime_checkable
class Scoring(Protocol):
    """An engine that also tells the log-probabilities of prompts."""

    def score(
        self, sequence: str, tokens: Sequence[int], following: Sequence[int], logprobs: int
    ) -> list[SampledToken]:
        """Append tokens to a sequence; return what the model thinks of the tokens that follow
        each, the first ``len(following)`` of them.
        """


@dataclass(frozen=True, slots=True)
class Job:
    """One generation to do.

    ``stop`` texts and ``stop_tokens`` end it and are not part of the answer. ``scored`` is not None
    where log-probabilities of the prompt's tokens are wanted, with so many alternatives.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    scored: int | None = None
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class TextToken:
    """A generated token, and the offset of its text in the answer, in characters."""

    sampled: SampledToken
    offset: int


@dataclass(frozen=True, slots=True)
class Delta:
    """New text, its tokens, and the number of tokens generated so far.

    Tokens without text (end of sequence, or cut off by a stop text) are only counted.
    """

    text: str
    tokens: tuple[TextToken, ...]
    generated: int
    finish: FinishReason | None = None


class Generation:
    """Feeds a prompt in chunks, then each drawn token; turns tokens into text until the end.

    ``scores`` are the prompt's tokens but the first, with their log-probabilities, where the job
    asks for them; they are complete before the first delta. ``cached`` is the number of tokens of
    the prompt that a cache had; whoever feeds the engine sets it.
    """

    def __init__(self, job: Job, detokenizer: Detokenizer, prefill_tokens: int) -> None:
        self.job = job
        self.tokens: list[int] = []
        self.scores: list[SampledToken] = []
        self.cached = 0
        self.finished = False
        self._detokenizer = detokenizer
        self._stops = StopFilter(job.stop)
        self.prefill_tokens = prefill_tokens
        self._feed: tuple[int, ...] = job.prompt
        self._pending: list[TextToken] = []
        self._read = 0
        self._sent = 0

    @property
    def generated(self) -> int:
        """The number of tokens generated so far."""
        return len(self.tokens)

    @property
    def prefilling(self) -> bool:
        """True if the next feed does not complete the prompt; the token that it returns is
        meaningless.
        """
        return len(self._feed) > self.prefill_tokens

    def next_feed(self) -> tuple[tuple[int, ...], Draw]:
        """Return the tokens to feed next, and how the token after them is drawn."""
        if self.prefilling:
            return self._feed[: self.prefill_tokens], Draw(Sampling(), 0)
        return self._feed, self.draw()

    def draw(self) -> Draw:
        """Return how the next token is drawn."""
        position = len(self.job.prompt) + len(self.tokens)
        constraint = self.job.constraint
        allowed = None if constraint is None else constraint.allowed()
        return Draw(self.job.sampling, position, self.job.prompt, self.tokens, allowed)

    def accept_scores(self, tokens: Sequence[SampledToken]) -> None:
        """Take the log-probabilities of the next tokens of the prompt, from its second on."""
        self.scores.extend(tokens)

    def accept(self, sampled: SampledToken) -> Delta | None:
        """Take the token that the engine returned; return new text, or None if there is none
        yet.
        """
        if self.prefilling:
            self._feed = self._feed[self.prefill_tokens :]
            return None
        self._feed = (sampled.token,)
        self.tokens.append(sampled.token)
        if sampled.token in self.job.stop_tokens:
            return self._finish("stop")
        if self.job.constraint is not None:
            self.job.constraint.accept(sampled.token)
        return self._grow(sampled)

    def _grow(self, sampled: SampledToken) -> Delta | None:
        self._pending.append(TextToken(sampled, self._read))
        piece = self._detokenizer.push(sampled.token)
        self._read += len(piece)
        text, stopped = self._stops.push(piece)
        if stopped:
            return self._delta(text, "stop")
        if self.job.constraint is not None and self.job.constraint.finished:
            return self._finish("stop", text)
        if self.generated == self.job.max_tokens:
            return self._finish("length", text)
        return self._delta(text) if text else None

    def _finish(self, reason: FinishReason, text: str = "") -> Delta:
        """Release the text held back; a stop text in it still counts."""
        tail, stopped = self._stops.push(self._detokenizer.finish())
        if stopped:
            return self._delta(text + tail, "stop")
        delta = self._delta(text + tail + self._stops.finish(), reason)
        silent, self._pending = tuple(self._pending), []
        return replace(delta, tokens=delta.tokens + silent)

    def _delta(self, text: str, finish: FinishReason | None = None) -> Delta:
        """Return text as a delta, with the tokens that begin in it or before."""
        self._sent += len(text)
        self.finished = finish is not None
        ready = sum(token.offset < self._sent for token in self._pending)
        tokens, self._pending = self._pending[:ready], self._pending[ready:]
        return Delta(text, tuple(tokens), self.generated, finish)


def run(generation: Generation, engine: Engine, sequence: str) -> Iterator[Delta | None]:
    """Drive a single generation to its end, step by step; yields None for a step without text."""
    yield from _score(generation, engine, sequence)
    while not generation.finished:
        tokens, draw = generation.next_feed()
        yield generation.accept(engine.infer(sequence, tokens, draw))


def _score(generation: Generation, engine: Engine, sequence: str) -> Iterator[None]:
    """Score the prompt in chunks, on a sequence of its own."""
    logprobs, prompt = generation.job.scored, generation.job.prompt
    if logprobs is None or len(prompt) < 2:
        return
    if not isinstance(engine, Scoring):
        raise RequestError("this engine tells no log-probabilities of prompts; leave echo out")
    step = generation.prefill_tokens
    for start in range(0, len(prompt) - 1, step):
        end = min(start + step, len(prompt) - 1)
        following = prompt[start + 1 : end + 1]
        scores = engine.score(f"{sequence}/scored", prompt[start:end], following, logprobs)
        generation.accept_scores(scores)
        yield None
    engine.release(f"{sequence}/scored")
