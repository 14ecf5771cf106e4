"""A server and a training run that share ranks, without Ray: the desk is a thread here."""

import asyncio
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.commands import Answering
from actors.engine.training import TrainingEngine
from moe.checkpoint.drafts import drafted
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.training import About, SaveContext, complete
from moe.config.run import RunConfig
from moe.config.sampling import Sampling
from moe.errors import ClusterError, RankLost
from moe.planning.plan.file import to_dict
from pipelines.serving.batching.batcher import Room
from pipelines.serving.generation.generation import Generation, Job
from pipelines.serving.generation.scheduler import Scheduler
from pipelines.serving.limits import Limits
from pipelines.serving.living.desk import Desk
from pipelines.serving.living.engine import LivingEngine
from pipelines.serving.living.reach import Asking
from pipelines.serving.living.terms import Conditions, Refused, Welcome
from pipelines.serving.text.detokenize import Detokenizer

BLOCKS = 64
SECONDS = 60.0
MOST = Conditions(Answering(BLOCKS), 0.99)
"""Nearly all of the time, so that a turn ends when there is nothing to do."""


class LocalDesk:
    """A desk on an event loop of its own thread, which can be as one that has died."""

    def __init__(self, conditions: Conditions) -> None:
        self._desk = Desk(conditions)
        self._loop = asyncio.new_event_loop()
        self._given: list[Future[Any]] = []
        self.alive = True
        threading.Thread(target=self._live, daemon=True).start()

    def tell(self, method: str, *arguments: Any) -> "Future[Any]":
        answer: Future[Any] = Future()
        if not self.alive:
            answer.set_exception(ClusterError("the desk is gone"))
            return answer
        call = asyncio.run_coroutine_threadsafe(getattr(self._desk, method)(*arguments), self._loop)
        call.add_done_callback(lambda done: self._settle(answer, done))
        self._given.append(answer)
        return answer

    def end(self) -> None:
        """Be gone: every call that is under way fails."""
        if not self.alive:
            return
        self.alive = False
        for answer in self._given:
            if not answer.done():
                answer.set_exception(ClusterError("the desk is gone"))
        asyncio.run_coroutine_threadsafe(self._ended(), self._loop)

    async def _ended(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop.stop()

    def _live(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def _settle(self, answer: "Future[Any]", done: "Future[Any]") -> None:
        if not answer.done() and not done.cancelled():
            answer.set_result(done.result())


class LocalBoard:
    """Servers that have left word, until the driver reads it."""

    def __init__(self) -> None:
        self.there = True
        self.asked: list[Asking] = []

    def ask(self, asking: Asking) -> None:
        if not self.there:
            raise RankLost("the run is over")
        self.asked.append(asking)

    def taken(self) -> list[Asking]:
        """Return what servers have left since the last time."""
        asked, self.asked = self.asked, []
        return asked


@dataclass
class LocalServer:
    """A server of token lists; it has ``heard`` of which step each token of each answer was."""

    board: LocalBoard
    conditions: Conditions = MOST
    desks: list[LocalDesk] = field(default_factory=list)
    heard: dict[int, list[int]] = field(default_factory=dict)

    def attach(self) -> LivingEngine:
        """Be let in."""
        desk = LocalDesk(self.conditions)
        self.desks.append(desk)
        asking = Asking(uuid.uuid4().hex, desk, self.conditions)
        self.board.ask(asking)
        found: Welcome | Refused = desk.tell("welcomed", SECONDS).result()
        if isinstance(found, Refused):
            raise RankLost(found.reason)
        return LivingEngine(self.board, asking, found, desk.end)

    def answers(self, prompts: Sequence[tuple[int, ...]], count: int) -> list[Generation]:
        """Return the answers to some prompts that come together."""

        async def main() -> list[Generation]:
            limits = Limits(request_seconds=SECONDS, prefill_tokens=24, idle_seconds=0.05)
            room = Room(BLOCKS, running=4).over(1)  # the run says over how many stages
            scheduler = Scheduler(self.attach, room, limits)
            try:
                asked = [_generation(prompt, count) for prompt in prompts]
                for number, stream in enumerate(scheduler.submit(asked)):
                    async for delta in stream:
                        if delta.steps is not None:
                            self.heard.setdefault(number, []).append(delta.steps[1])
                return asked
            finally:
                scheduler.close(SECONDS)

        return asyncio.run(main())


@contextmanager
def asked(
    server: LocalServer, prompts: Sequence[tuple[int, ...]], count: int
) -> Iterator["Future[list[Generation]]"]:
    """Have a server answer in a thread; the answers are to come."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(server.answers, prompts, count)


def saved(engine: TrainingEngine, run: RunConfig, step: int, to: Path) -> Path:
    """Save a checkpoint of the step that the ranks stand at."""
    config = Checkpoint.open(run.model.path).config
    with drafted(to) as draft:
        engine.snapshot(step)
        written = engine.write(draft, step).result()
        context = SaveContext(config, run, run.model.path, "data")
        complete(draft, About(context, to_dict(engine.plan), step), written)
    return to


def _generation(prompt: tuple[int, ...], count: int) -> Generation:
    detokenizer = Detokenizer(lambda tokens: " ".join(map(str, tokens)), lambda _: False)
    return Generation(Job(prompt, count, Sampling()), detokenizer)
