"""The progress of one request: the text of its tokens so far.

A generation does no I/O, so a scheduler may drive many.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from moe.config.sampling import SampledToken, Sampling
from pipelines.serving.batching.sequence import Wanted
from pipelines.serving.generation.adapter import Adapter
from pipelines.serving.generation.constraint import Constraint
from pipelines.serving.text.detokenize import Detokenizer
from pipelines.serving.text.stops import StopFilter

FinishReason = Literal["stop", "length"]
Steps = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Job:
    """One generation to do.

    ``stop`` texts and ``stop_tokens`` end it and are not part of the answer. ``scored`` is not None
    where log-probabilities of the prompt's tokens are wanted, with so many alternatives.
    ``adapter`` None: the model itself answers.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    scored: int | None = None
    constraint: Constraint | None = None
    adapter: Adapter | None = None

    @property
    def wanted(self) -> Wanted:
        """What is wanted of its sequence."""
        allowed = None if self.constraint is None else self.constraint.allowed
        of_model = Wanted(self.prompt, self.max_tokens, self.sampling, self.scored, allowed)
        if self.adapter is None:
            return of_model
        return replace(of_model, adapter=self.adapter.number, root=self.adapter.source.digest)


@dataclass(frozen=True, slots=True)
class TextToken:
    """A generated token, and the offset of its text in the answer, in characters."""

    sampled: SampledToken
    offset: int


@dataclass(frozen=True, slots=True)
class Delta:
    """New text, its tokens, and the number of tokens generated so far.

    Tokens without text (end of sequence, or cut off by a stop text) are only counted. ``steps``
    are the oldest and the newest of the training run whose weights have had a part in the answer
    so far; None where weights never change.
    """

    text: str
    tokens: tuple[TextToken, ...]
    generated: int
    finish: FinishReason | None = None
    steps: Steps | None = None


class Generation:
    """Turns the tokens that are drawn for a job into text, until the end.

    ``scores`` are the prompt's tokens but the first, with their log-probabilities, where the job
    asks for them; they are complete before the first delta. ``cached`` is the number of tokens of
    the prompt that a cache had; whoever feeds the engine sets it.
    """

    def __init__(self, job: Job, detokenizer: Detokenizer) -> None:
        self.job = job
        self.tokens: list[int] = []
        self.scores: list[SampledToken] = []
        self.cached = 0
        self.steps: Steps | None = None
        self.finished = False
        self._detokenizer = detokenizer
        self._stops = StopFilter(job.stop)
        self._pending: list[TextToken] = []
        self._read = 0
        self._sent = 0

    @property
    def generated(self) -> int:
        """The number of tokens generated so far."""
        return len(self.tokens)

    def follow(self, step: int | None) -> None:
        """Note the step whose weights have a part in the answer from now on; None: they never
        change.
        """
        if step is not None:
            first, last = self.steps or (step, step)
            self.steps = min(first, step), max(last, step)

    def accept_scores(self, tokens: Sequence[SampledToken]) -> None:
        """Take the log-probabilities of the next tokens of the prompt, from its second on."""
        self.scores.extend(tokens)

    def accept(self, sampled: SampledToken) -> Delta | None:
        """Take the token that the engine returned; return new text, or None if there is none
        yet.
        """
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
        return Delta(text, tuple(tokens), self.generated, finish, self.steps)
