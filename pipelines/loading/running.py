"""A load as it runs: requests are sent as they are due, and their answers gathered."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import aiohttp

from pipelines.loading.answer import Answer
from pipelines.loading.asking import Asking, client
from pipelines.loading.load import Load
from pipelines.loading.prompt import Prompt
from pipelines.loading.target import Target


@dataclass(frozen=True, slots=True)
class Standing:
    """What can be said of a load while it runs."""

    ended: int
    failed: int
    running: int
    events: int
    seconds: float


Told = Callable[[Standing], None]


async def run(
    target: Target, load: Load, prompts: Sequence[Prompt], told: Told = lambda standing: None
) -> list[Answer]:
    """Send all requests of a load, with the prompts in turn; return their answers in order."""
    running = _Running(target, load, prompts, told)
    async with client(target) as session:
        return await running.all(session)


class _Running:
    def __init__(self, target: Target, load: Load, prompts: Sequence[Prompt], told: Told) -> None:
        self._target, self._load, self._prompts, self._told = target, load, prompts, told
        self._leaving = load.leaving(target.max_tokens)
        self._began = time.perf_counter()
        self._standing = Standing(0, 0, 0, 0, 0.0)

    async def all(self, session: aiohttp.ClientSession) -> list[Answer]:
        self._began = time.perf_counter()
        arrivals = self._load.arrivals()
        if arrivals is None:
            return await self._closed(session)
        async with asyncio.TaskGroup() as group:
            tasks = []
            for number, due in enumerate(arrivals):
                await asyncio.sleep(max(due - self._now(), 0.0))
                tasks.append(group.create_task(self._one(session, number, due)))
        return [task.result() for task in tasks]

    async def _closed(self, session: aiohttp.ClientSession) -> list[Answer]:
        """Let each client take the next request that nobody has taken."""
        assert self._load.concurrency is not None
        numbers = iter(range(self._load.requests))
        answers: dict[int, Answer] = {}

        async def ask_in_turn() -> None:
            for number in numbers:
                answers[number] = await self._one(session, number, self._now())

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._load.concurrency, self._load.requests)):
                group.create_task(ask_in_turn())
        return [answers[number] for number in range(self._load.requests)]

    async def _one(self, session: aiohttp.ClientSession, number: int, due: float) -> Answer:
        asking = Asking(due, self._began, self._leaving[number], self._heard)
        self._tell(running=self._standing.running + 1)
        prompt = self._prompts[number % len(self._prompts)]
        answer = await asking.ask(session, self._target, prompt)
        self._tell(
            running=self._standing.running - 1,
            ended=self._standing.ended + 1,
            failed=self._standing.failed + (answer.failure is not None),
        )
        return answer

    def _heard(self) -> None:
        self._tell(events=self._standing.events + 1)

    def _tell(self, **changes: int) -> None:
        self._standing = replace(self._standing, seconds=self._now(), **changes)
        self._told(self._standing)

    def _now(self) -> float:
        return time.perf_counter() - self._began
