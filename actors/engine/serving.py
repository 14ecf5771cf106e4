"""Serves one model: batches of sequences, on the ranks of a plan with one replica."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from actors.calls import Answer, over
from actors.commands import (
    AdapterSource,
    Answerable,
    Answering,
    Batch,
    BatchOutput,
    RankStatus,
)
from actors.crew.crew import Crew
from actors.deadlines import Deadlines
from actors.engine import statuses
from actors.engine.meeting import Meeting
from actors.engine.passes import Flight, Passes
from actors.state.sources import ModelSource, Source
from moe.errors import CheckpointError, OutOfMemory, RaymoeError
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.storage import Location

HEALTH_SECONDS = 10.0
"""A health check waits no longer than this, and no longer than the group deadline."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A command that ranks carry out beside batches or among them, with their answers to come."""

    answers: dict[Seat, Answer]

    @property
    def over(self) -> bool:
        """Whether all ranks have answered, or one has failed."""
        return over(self.answers.values())


@dataclass(frozen=True, slots=True)
class Move(Asked):
    """Experts that ranks make for another plan."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Mended:
    """The ranks answer again; those ``replaced`` are new processes. Sequences begin anew."""

    replaced: tuple[int, ...]
    seconds: float


class ServingEngine:
    """Answers with the ranks of one plan. Ranks work through batches in the order of ``begin``."""

    def __init__(self, meeting: Meeting, source: Source, how: Answering) -> None:
        self._meeting = meeting
        self._passes = Passes(meeting, meeting.crew.seats)
        self._spares = 0
        self._source = source
        self._how = how
        self.answerable: tuple[Answerable, ...] = ()

    @classmethod
    def serve(
        cls,
        crew: Crew,
        name: str,
        plan: Plan,
        model: Location,
        deadlines: Deadlines,
        how: Answering,
    ) -> "ServingEngine":
        """Build the ranks of a crew from a model directory; on failure the ranks are ended."""
        meeting = Meeting(name, plan, crew, deadlines)
        engine = cls(meeting, ModelSource(model), how)
        meeting.start(engine._source, 0, None)
        try:
            engine.answerable = tuple(engine._prepare())
        except BaseException:
            meeting.end()
            raise
        return engine

    def warm(self, spares: int) -> None:
        """Keep so many processes on each node to take the place of a rank that is lost."""
        self._spares = spares
        self._meeting.crew.warm(spares)

    def weights(self) -> None:
        """Return None: its weights never change."""

    def begin(self, batch: Batch) -> Flight:
        """Tell the ranks a batch and return at once.

        RequestError where a token is not in the vocabulary; no rank hears of it.
        """
        return self._passes.begin(batch)

    def finish(self, flight: Flight) -> BatchOutput:
        """Wait for a batch, of those begun the first, and return what came of it.

        Where a rank fails, no rank goes on, and no batch that was begun will be finished.
        """
        return self._passes.finish(flight)

    def mend(self) -> Mended:
        """Bring the ranks together again after a loss; the lost ones alone are built anew.

        All others keep their processes and their weights. Raises what goes wrong meanwhile; it may
        be called again then, and begins anew.
        """
        began, meeting = time.monotonic(), self._meeting
        seen = meeting.look()
        lost = tuple(s for s in meeting.crew.seats if s not in seen or not seen[s].built)
        if lost:
            meeting.crew.replace(lost, meeting.deadlines.launch)
            meeting.build(self._source, 0, None, lost)
        meeting.begin()
        self._prepare()
        self.warm(self._spares)
        ranks = tuple(meeting.plan.seats.rank(seat) for seat in lost)
        return Mended(ranks, time.monotonic() - began)

    def adopt(self, source: AdapterSource) -> Asked:
        """Tell the ranks to take up an adapter and return at once; batches go on beside it."""
        return Asked(self._meeting.tell("adopt", source))

    def adopted(self, adoption: Asked) -> None:
        """Wait until all ranks have an adapter, after which batches may use it.

        CheckpointError where its files are not there any more; the ranks have lost nothing else.
        """
        seconds = self._meeting.deadlines.launch
        self._meeting.ask(adoption.answers, "taking up an adapter", seconds)

    def drop(self, adapter: int) -> None:
        """Tell the ranks to forget an adapter once the batches begun so far are done."""
        self._meeting.tell("drop", adapter)

    @property
    def plan(self) -> Plan:
        """Who holds what now."""
        return self._meeting.plan

    def ask_loads(self) -> Asked:
        """Ask the ranks which experts the batches begun so far have used; return at once."""
        return Asked(self._meeting.tell("expert_loads"))

    def loads(self, asked: Asked) -> Mapping[int, tuple[int, ...]]:
        """Wait for the rows of each expert by layer, since they were asked for the last time."""
        found: dict[int, tuple[int, ...]] = {}
        seconds = self._meeting.deadlines.command
        for own in self._meeting.ask(asked.answers, "the load of experts", seconds):
            for layer, load in own.items():
                found[layer] = max(found.get(layer, load), load, key=sum)
        return found

    def fetch(self, plan: Plan) -> Move:
        """Have the ranks make the experts that they have in another plan, which differs in nothing
        else; return at once. Batches go on beside it.
        """
        return Move(self._meeting.tell("fetch_experts", plan, self._source), plan)

    def place(self, move: Move) -> None:
        """Wait for the experts, and have all ranks take them between the same two batches.

        Where a rank cannot have them, all stay as they are. One that is lost later is built of the
        new plan.
        """
        meeting = self._meeting
        try:
            meeting.ask(move.answers, "reading experts", meeting.deadlines.launch)
        except (CheckpointError, OutOfMemory):
            meeting.tell("fetch_experts", meeting.plan, self._source)  # nothing, for what was made
            raise
        meeting.plan = move.plan
        meeting.tell("place_experts")

    @property
    def spares(self) -> int:
        """Number of processes that are ready to take the place of a lost rank."""
        return self._meeting.crew.spares()

    def statuses(self) -> list[RankStatus]:
        """Return what every rank holds now; RaymoeError where one does not answer."""
        return self._meeting.status(min(self._meeting.deadlines.group, HEALTH_SECONDS))

    def healthy(self) -> bool:
        """Tell whether every rank answers and belongs to the epoch."""
        try:
            return statuses.together(self.statuses(), self._meeting.epoch)
        except RaymoeError:
            return False

    def shutdown(self) -> None:
        """End all ranks and give back what they hold."""
        self._meeting.end()

    def _prepare(self) -> list[Answerable]:
        """Have ranks pack their weights and take memory for keys and values, if they have not."""
        meeting = self._meeting
        answers = meeting.tell("answer_as", self._how)
        return meeting.gather(answers, "making ready to answer", meeting.deadlines.launch)
