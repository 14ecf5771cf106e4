"""Runs jobs on an engine to their end, many together, for whoever is no server."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from actors.commands import Batch
from moe.planning.counts.workload import PASS_TOKENS
from pipelines.models.scoring.mending import LOST, Mending
from pipelines.serving.batching.batcher import Batcher, Outcome, Room
from pipelines.serving.generation.engine import Engine
from pipelines.serving.generation.generation import Generation, Job
from pipelines.serving.text.text import Text

Progress = Callable[[int, int], None]


class Runner:
    """An engine with some room, and the tokenizer of its model.

    Ranks that are lost are replaced, and jobs go on from their tokens.
    """

    def __init__(self, engine: Engine[Any], room: Room, text: Text) -> None:
        self._engine = engine
        self._room = room
        self._text = text
        self._mending = Mending(engine)

    def run(
        self, jobs: Sequence[Job], progress: Progress = lambda done, of: None
    ) -> list[Generation]:
        """Return what came of jobs, each of which fits the room, in their order.

        One whose ``max_tokens`` are 0 is over when its prompt is scored.
        """
        batcher = Batcher(self._room)
        generations = [Generation(job, self._text.detokenizer()) for job in jobs]
        running = {batcher.add(each.job.wanted): each for each in generations}
        flights: deque[tuple[Batch, Any]] = deque()
        while running:
            self._begin(batcher, flights)
            batch, flight = flights[0]
            try:
                output = self._engine.finish(flight)
            except LOST as error:
                self._mending.mend(error)
                flights.clear()
                batcher.restart()
                continue
            self._mending.went_well()
            flights.popleft()
            for outcome in batcher.take(batch, output):
                if _ended(running[outcome.number], outcome):
                    batcher.end(outcome.number)
                    del running[outcome.number]
            progress(len(jobs) - len(running), len(jobs))
        return generations

    def _begin(self, batcher: Batcher, flights: deque[tuple[Batch, Any]]) -> None:
        while len(flights) < self._room.depth:
            batch = batcher.next(PASS_TOKENS)
            if batch is None:
                return
            flights.append((batch, self._engine.begin(batch)))


def _ended(generation: Generation, outcome: Outcome) -> bool:
    """Take what a batch brought for a job; return whether that is all."""
    generation.accept_scores(outcome.scores)
    if outcome.token is not None:
        generation.accept(outcome.token)
    scored = len(generation.scores) == len(generation.job.prompt) - 1
    return generation.finished or (generation.job.max_tokens == 0 and scored)
