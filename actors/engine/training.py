"""Trains one plan: steps of all ranks at once, checkpoints, and takeover by a new driver.

The engine calls each rank once for a step and waits with a deadline. It holds no tensors.
"""

import time
from collections.abc import Iterable

from actors.commands import RankStatus, StepInput, StepReport
from actors.crew.crew import Crew
from actors.deadlines import deadlines_of
from actors.engine import statuses
from actors.engine.meeting import Meeting
from actors.engine.reports import merge
from actors.state.checkpointing import PendingWrites
from actors.state.sources import Source
from actors.step.replicas import part_of
from moe.config.run import RunConfig
from moe.errors import RaymoeError
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.storage import Location


class TrainingEngine:
    """Trains the ranks of one plan, all its replicas."""

    def __init__(self, meeting: Meeting, run: RunConfig, status: Iterable[RankStatus]) -> None:
        self._meeting = meeting
        self._run = run
        self._status = tuple(status)

    @property
    def plan(self) -> Plan:
        """The plan of all replicas."""
        return self._meeting.plan

    @classmethod
    def train(
        cls, crew: Crew, run: RunConfig, plan: Plan, source: Source, sequence_length: int
    ) -> "TrainingEngine":
        """Build the ranks of a crew from a source, and return an engine that trains them.

        ``sequence_length`` is that of a step, in tokens. On failure the ranks are ended.
        """
        meeting = Meeting(run.name, plan, crew, deadlines_of(run))
        meeting.start(source, sequence_length, run)
        return cls(meeting, run, meeting.status())

    @classmethod
    def attach(cls, crew: Crew, run: RunConfig, plan: Plan) -> "TrainingEngine | None":
        """Take over the living ranks of a run; None unless all live and stand at one step.

        Ranks in the middle of a step may have been left there by a driver that died before it had
        commanded all: the step is commanded again, and who has done it answers at once. Ranks
        whose groups broke, or that hold a snapshot which a dead driver has not had written, end
        what they do and meet under a new epoch. A rank that failed with its weights half updated
        cannot go on.
        """
        meeting = Meeting(run.name, plan, crew, deadlines_of(run))
        try:
            status = meeting.status()
            if not statuses.built_for(status, plan.replicas):
                return None
            meeting.epoch = statuses.epoch_of(status)
            if not statuses.can_be_driven(status):
                if not statuses.can_meet_again(meeting.settle(status)):
                    return None
                meeting.begin()
        except RaymoeError:
            return None
        return cls(meeting, run, status)

    def train_step(self, batch: StepInput) -> StepReport:
        """Run one step of a global batch.

        Each replica gets its part. Ranks that need no token numbers, or no labels, get none.
        """
        started = time.perf_counter()
        replicas = self.plan.replicas
        parts = [part_of(batch, self._run.train, each, replicas) for each in range(replicas)]
        answers = self._meeting.tell_each(
            "train_step",
            {seat: self._needed(parts[seat.replica], seat) for seat in self.plan.seats},
        )
        seconds = self._meeting.deadlines.command
        reports = self._meeting.gather(answers, f"step {batch.step}", seconds)
        return merge(reports, batch.label_count, time.perf_counter() - started)

    def snapshot(self, step: int) -> None:
        """Have every rank copy what it holds after ``step``, and wait until all have."""
        answers = self._meeting.tell("snapshot", step)
        self._meeting.gather(answers, "taking a snapshot", self._meeting.deadlines.command)

    def write(self, directory: Location, step: int) -> PendingWrites:
        """Have all ranks of the run write the snapshot of a step there, while they train on."""
        meeting, doing = self._meeting, f"writing {directory.name}"
        answers = meeting.tell("write", directory, step)
        return PendingWrites(
            list(answers.values()),
            lambda: meeting.gather(answers, doing, meeting.deadlines.command),
        )

    def status(self) -> list[RankStatus]:
        """Return what every rank of the run holds now, also while a step runs."""
        return self._meeting.status()

    def steps_done(self) -> int:
        """Return how many steps every rank has done."""
        return statuses.steps_done(self.status())

    def last_report(self) -> StepReport | None:
        """Return the report of the last step; None before the first.

        None also while some ranks have done the next. ``seconds`` are those of the slowest rank;
        ``tokens`` is 0, because ranks do not know it.
        """
        reports = statuses.reports_of_last_step(self.status())
        if reports is None:
            return None
        return merge(reports, 0, max(report.busy_seconds for report in reports))

    def busy(self) -> bool:
        """Tell whether any rank is in a step, as a driver that died may have left it."""
        return any(rank.busy for rank in self.status())

    def shutdown(self) -> None:
        """End all ranks and give back what they hold."""
        self._meeting.end()

    def _needed(self, part: StepInput, seat: Seat) -> StepInput:
        """Return what one rank needs of its replica's part of a global batch."""
        plan = self.plan
        needs_tokens = self._status[plan.seats.rank(seat)].needs_tokens
        return StepInput(
            part.step,
            part.tokens if needs_tokens else None,
            part.labels if plan.share(seat).head else None,
            part.label_count,
        )
