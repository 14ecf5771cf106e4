"""The progress of one request: the next input of the engine, and the text of its tokens so far.

A generation does no I/O, so a scheduler may drive one generation or many.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from moe.config.sampling import SampledToken, Sampling
from pipelines.serving.text.detokenize import Detokenizer
from pipelines.serving.text.stops import StopFilter

FinishReason = Literal["stop", "length"]


class Engine(Protocol):
    """The model as the server uses it: it extends sequences of tokens. Calls block."""

    def infer(self, sequence: str, tokens: Sequence[int], sampling: Sampling) -> SampledToken:
        """Append tokens to a sequence and return the token that follows."""

    def release(self, sequence: str) -> None:
        """Forget a sequence."""

    def healthy(self) -> bool:
        """Return whether every rank is alive."""

    def shutdown(self) -> None:
        """End the ranks."""


@dataclass(frozen=True, slots=True)
class Job:
    """One generation to do; ``stop`` texts end it and are not part of the answer."""

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()


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
    """Feeds a prompt in chunks, then each drawn token; turns tokens into text until the end."""

    def __init__(
        self, job: Job, eos: frozenset[int], detokenizer: Detokenizer, prefill_tokens: int
    ) -> None:
        self.job = job
        self.generated = 0
        self.finished = False
        self._eos = eos
        self._detokenizer = detokenizer
        self._stops = StopFilter(job.stop)
        self._prefill_tokens = prefill_tokens
        self._feed: tuple[int, ...] = job.prompt
        self._pending: list[TextToken] = []
        self._read = 0
        self._sent = 0

    @property
    def prefilling(self) -> bool:
        """True if the next feed does not complete the prompt; the token that it returns is
        meaningless.
        """
        return len(self._feed) > self._prefill_tokens

    def next_feed(self) -> tuple[tuple[int, ...], Sampling]:
        """Return the tokens to feed next, and how the token after them is drawn."""
        if self.prefilling:
            greedy = replace(self.job.sampling, temperature=0.0, logprobs=0)
            return self._feed[: self._prefill_tokens], greedy
        return self._feed, self.job.sampling

    def accept(self, sampled: SampledToken) -> Delta | None:
        """Take the token that the engine returned; return new text, or None if there is none
        yet.
        """
        if self.prefilling:
            self._feed = self._feed[self._prefill_tokens :]
            return None
        self._feed = (sampled.token,)
        self.generated += 1
        if sampled.token in self._eos:
            return self._finish("stop")
        return self._grow(sampled)

    def _grow(self, sampled: SampledToken) -> Delta | None:
        self._pending.append(TextToken(sampled, self._read))
        piece = self._detokenizer.push(sampled.token)
        self._read += len(piece)
        text, stopped = self._stops.push(piece)
        if stopped:
            return self._delta(text, "stop")
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
    while not generation.finished:
        tokens, sampling = generation.next_feed()
        yield generation.accept(engine.infer(sequence, tokens, sampling))
