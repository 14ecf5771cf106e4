"""The loads that servers are compared under, and what each of them found."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from moe.errors import ClusterError
from pipelines.loading.answer import Answer
from pipelines.loading.asking import Asking, client
from pipelines.loading.figures import Figures, Spread, figures
from pipelines.loading.load import Load
from pipelines.loading.prompt import Prompt
from pipelines.loading.random_prompts import Lengths, random_texts
from pipelines.loading.running import run
from pipelines.loading.target import Target
from pipelines.loading.tokenizer import LoadTokenizer

POLL_SECONDS = 0.01

ONE, ONE_FIRST = "one tok/s", "one first"
MANY, MANY_SPENT = "many tok/s", "many tok/CPU s"
MANY_FIRST, MANY_FIRST_95 = "many first p50", "many first p95"
MANY_GAP = "many gap p50"
SHARED_FIRST, SHARED_FIRST_95 = "shared first p50", "shared first p95"
LONG = "long tok/s"
QUIET_GAP, BESIDE_GAP, BESIDE_RATIO = "quiet gap p50", "beside gap p95", "beside / quiet"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens and numbers of the loads. ``running`` streams are ``settled`` after so many tokens."""

    prompt: int = 64
    answer: int = 64
    streams: int = 16
    together: int = 8
    together_prompt: int = 400
    together_shared: int = 256
    together_answer: int = 16
    long_prompt: int = 1500
    running: int = 4
    running_answer: int = 256
    settled: int = 12

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(
            self.prompt + max(self.answer, self.running_answer),
            self.together_prompt + self.together_answer,
            self.long_prompt + 1,
        )


SMALLEST = Sizes(8, 4, 2, 2, 24, 16, 2, 48, 2, 48, 4)


class Loads:
    """The loads on one server; each call draws new prompts, which no prefix cache has seen."""

    def __init__(
        self,
        target: Target,
        tokenizer: LoadTokenizer,
        sizes: Sizes,
        seed: int,
        processor_seconds: Callable[[], float],
    ) -> None:
        self._target, self._tokenizer, self._sizes = target, tokenizer, sizes
        self._seed, self._processor_seconds = seed, processor_seconds

    def measure(self) -> dict[str, float]:
        """Return the figures of all loads, by name."""
        return {
            **self._one(),
            **self._streams(),
            **self._together(),
            **self._long(),
            **self._gaps(),
        }

    def warm(self) -> None:
        """Let the server meet the shapes of the loads once."""
        sizes = self._sizes
        self._asked(Lengths(sizes.prompt), sizes.streams, sizes.streams, min(8, sizes.answer))

    def _one(self) -> dict[str, float]:
        sizes = self._sizes
        found = self._asked(Lengths(sizes.prompt), 1, 1, sizes.answer)
        return {
            ONE: 1 / _spread(found.per_token).p50,
            ONE_FIRST: _spread(found.first_token).p50,
        }

    def _streams(self) -> dict[str, float]:
        sizes = self._sizes
        before = self._processor_seconds()
        found = self._asked(Lengths(sizes.prompt), sizes.streams, sizes.streams, sizes.answer)
        spent = self._processor_seconds() - before
        first = _spread(found.first_token)
        return {
            MANY: found.output_tokens / found.seconds,
            MANY_SPENT: found.output_tokens / max(spent, 0.01),
            MANY_FIRST: first.p50,
            MANY_FIRST_95: first.p95,
            MANY_GAP: _spread(found.between_tokens).p50,
        }

    def _together(self) -> dict[str, float]:
        sizes = self._sizes
        lengths = Lengths(sizes.together_prompt, sizes.together_shared)
        found = self._asked(lengths, sizes.together, sizes.together, sizes.together_answer)
        first = _spread(found.first_token)
        return {SHARED_FIRST: first.p50, SHARED_FIRST_95: first.p95}

    def _long(self) -> dict[str, float]:
        found = self._asked(Lengths(self._sizes.long_prompt), 1, 1, 1)
        return {LONG: self._sizes.long_prompt / _spread(found.first_token).p50}

    def _gaps(self) -> dict[str, float]:
        sizes = self._sizes
        prompts = self._prompts(Lengths(sizes.prompt), sizes.running)
        (long,) = self._prompts(Lengths(sizes.long_prompt), 1)
        target = replace(self._target, max_tokens=sizes.running_answer)
        quiet, within = asyncio.run(gaps_beside(target, prompts, long, sizes.settled))
        usual, long_gap = float(np.median(quiet)), float(np.percentile(within, 95))
        return {QUIET_GAP: usual, BESIDE_GAP: long_gap, BESIDE_RATIO: long_gap / usual}

    def _asked(self, lengths: Lengths, requests: int, concurrency: int, answer: int) -> Figures:
        prompts = self._prompts(lengths, requests)
        target = replace(self._target, max_tokens=answer)
        answers = asyncio.run(run(target, Load(requests, concurrency), prompts))
        found = figures(answers, prompts, self._tokenizer)
        _check(answers)
        return found

    def _prompts(self, lengths: Lengths, count: int) -> list[Prompt]:
        self._seed += 1
        return random_texts(lengths, self._tokenizer, count, self._seed)


async def gaps_beside(
    target: Target, prompts: Sequence[Prompt], long: Prompt, settled: int
) -> tuple[list[float], list[float]]:
    """Return the gaps of running streams before a long prompt arrives, and while it is read.

    A gap belongs to the second where any of it is between the sending of the prompt and its token.
    """
    began = time.perf_counter()
    running = [Asking(0.0, began) for _ in prompts]
    async with client(target) as session:
        tasks = [
            asyncio.create_task(asking.ask(session, target, prompt))
            for asking, prompt in zip(running, prompts, strict=True)
        ]
        await _until(lambda asking: len(asking.tokens_at) > settled, running, tasks)
        due = time.perf_counter() - began
        one = replace(target, max_tokens=1, min_tokens=None)
        arrived = await Asking(due, began).ask(session, one, long)
        _check([arrived])
        read = arrived.tokens_at[0]
        await _until(lambda asking: asking.tokens_at[-1] > read, running, tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    _check([task.result() for task in tasks if not task.cancelled()])
    pairs = [pair for asking in running for pair in pairwise(asking.tokens_at)]
    quiet = [after - before for before, after in pairs if after <= arrived.sent]
    within = [after - before for before, after in pairs if arrived.sent < after and before < read]
    if not within:
        raise ClusterError("the running streams ended before the long prompt was read")
    return quiet, within


async def _until(
    true: Callable[[Asking], bool],
    running: Sequence[Asking],
    tasks: Sequence["asyncio.Task[Answer]"],
) -> None:
    """Wait until it is true of each stream that has not ended."""
    while not all(task.done() or true(asking) for asking, task in zip(running, tasks, strict=True)):
        await asyncio.sleep(POLL_SECONDS)


def _check(answers: Sequence[Answer]) -> None:
    for failure in (answer.failure for answer in answers):
        if failure is not None:
            raise ClusterError(f"a request failed: {failure.name}: {failure.message}")


def _spread(found: Spread | None) -> Spread:
    if found is None:
        raise ClusterError("answers were too short to measure; their models ended them early")
    return found
