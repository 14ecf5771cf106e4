"""What a load measured: latencies by percentile, rates, and every failure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np

from pipelines.loading.answer import Answer
from pipelines.loading.prompt import Prompt
from pipelines.loading.tokenizer import LoadTokenizer

Counted = Literal["the server", "the tokenizer", "events"]


@dataclass(frozen=True, slots=True)
class Spread:
    """How a quantity is spread over requests or tokens, in seconds."""

    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    most: float


@dataclass(frozen=True, slots=True)
class Fault:
    """Failures of one kind, with the words of the first."""

    name: str
    count: int
    message: str


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one load.

    Latencies are of requests that were answered; what the clients that left saw of their streams
    counts as well, but for the end. ``per_token`` is a request's mean from its first token to its
    last. ``late`` is how much later than due a request was sent at most: where that is much, the
    load generator was the limit. ``prompt_tokens`` is None if nobody counted them.
    """

    requests: int
    answered: int
    left: int
    seconds: float
    prompt_tokens: int | None
    output_tokens: int
    events: int
    counted_by: Counted
    late: float
    faults: tuple[Fault, ...] = ()
    first_token: Spread | None = None
    between_tokens: Spread | None = None
    per_token: Spread | None = None
    end_to_end: Spread | None = None

    @property
    def failed(self) -> int:
        """Requests that were not answered."""
        return sum(fault.count for fault in self.faults)

    @property
    def rates(self) -> dict[str, float | None]:
        """Requests answered, tokens read and tokens generated a second."""
        read = None if self.prompt_tokens is None else self.prompt_tokens / self.seconds
        return {
            "requests_per_second": self.answered / self.seconds,
            "prompt_tokens_per_second": read,
            "output_tokens_per_second": self.output_tokens / self.seconds,
        }


def figures(
    answers: Sequence[Answer],
    prompts: Sequence[Prompt] = (),
    tokenizer: LoadTokenizer | None = None,
) -> Figures:
    """Summarise answers; ``prompts``, in turn, and a tokenizer count what the server did not."""
    kept = [answer for answer in answers if answer.failure is None]
    whole = [answer for answer in kept if not answer.left]
    counts, counted_by = _output_tokens(kept, tokenizer)
    by_answer = {id(answer): count for answer, count in zip(kept, counts, strict=True)}
    return Figures(
        requests=len(answers),
        answered=len(whole),
        left=len(kept) - len(whole),
        seconds=max(a.ended for a in answers) - min(a.due for a in answers),
        prompt_tokens=_prompt_tokens(answers, prompts, tokenizer),
        output_tokens=sum(counts),
        events=sum(len(answer.tokens_at) for answer in kept),
        counted_by=counted_by,
        late=max(answer.sent - answer.due for answer in answers),
        faults=_faults(answers),
        first_token=_spread([answer.first_token for answer in kept]),
        between_tokens=_spread(list(chain.from_iterable(answer.gaps for answer in kept))),
        per_token=_spread(
            [
                (answer.tokens_at[-1] - answer.tokens_at[0]) / (by_answer[id(answer)] - 1)
                for answer in whole
                if by_answer[id(answer)] > 1
            ]
        ),
        end_to_end=_spread([answer.whole for answer in whole]),
    )


def _output_tokens(
    answers: Sequence[Answer], tokenizer: LoadTokenizer | None
) -> tuple[list[int], Counted]:
    """Return the tokens of each answer, by the best that can count those that were not cut off."""
    whole = [answer for answer in answers if not answer.left]
    if whole and all(answer.output_tokens is not None for answer in whole):
        return [answer.output_tokens or len(answer.tokens_at) for answer in answers], "the server"
    if tokenizer is None:
        return [len(answer.tokens_at) for answer in answers], "events"
    return [tokenizer.count(answer.text) for answer in answers], "the tokenizer"


def _prompt_tokens(
    answers: Sequence[Answer], prompts: Sequence[Prompt], tokenizer: LoadTokenizer | None
) -> int | None:
    """Return the tokens of the prompts that were answered; None where one cannot be counted.

    Prompts of clients that left are counted where they can be.
    """
    total = 0
    for number, answer in enumerate(answers):
        if answer.failure is not None:
            continue
        found = answer.prompt_tokens
        if found is None and prompts:
            found = _length(prompts[number % len(prompts)], tokenizer)
        if found is None and not answer.left:
            return None
        total += found or 0
    return total


def _length(prompt: Prompt, tokenizer: LoadTokenizer | None) -> int | None:
    if prompt.ids is not None:
        return len(prompt.ids)
    if prompt.text is None or tokenizer is None:
        return None
    return tokenizer.count(prompt.text)


def _faults(answers: Sequence[Answer]) -> tuple[Fault, ...]:
    failures = [answer.failure for answer in answers if answer.failure is not None]
    first = {failure.name: failure.message for failure in reversed(failures)}
    counts = Counter(failure.name for failure in failures)
    return tuple(Fault(name, count, first[name]) for name, count in counts.most_common())


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    p50, p90, p95, p99 = (float(value) for value in np.percentile(values, (50, 90, 95, 99)))
    return Spread(p50, p90, p95, p99, float(np.mean(values)), max(values))
