"""Trains one plan: steps of all ranks at once, checkpoints, and takeover by a new driver.

The engine calls each rank once for a step and waits with a deadline. It holds no tensors.
"""

import time
from collections.abc import Iterable

from actors.commands import RankStatus, StepInput, StepReport
from actors.crew.crew import Crew
from actors.deadlines import deadlines_of
from actors.engine import statuses
from actors.engine.meeting import POLL_SECONDS, Meeting
from actors.engine.reports import merge
from actors.state.checkpointing import PendingWrites
from actors.state.sources import Source
from actors.step.replicas import part_of
from moe.config.run import RunConfig
from moe.errors import DeadlineExceeded, RaymoeError
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.storage import Location


class TrainingEngine:
    """Trains the ranks of one plan: all its replicas, or ``only`` one of them.

    Where each replica has a driver of its own, the first driver starts the run, begins epochs and
    saves for all of them; every driver steps its own replica.
    """

    def __init__(
        self, meeting: Meeting, run: RunConfig, status: Iterable[RankStatus], seats: Iterable[Seat]
    ) -> None:
        self._meeting = meeting
        self._run = run
        self._status = tuple(status)
        self._seats = tuple(seats)

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
        return cls(meeting, run, meeting.status(), plan.seats)

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
        return cls(meeting, run, status, plan.seats)

    @classmethod
    def beside(cls, crew: Crew, run: RunConfig, plan: Plan) -> "TrainingEngine":
        """Return an engine over the ranks that another driver has made ready."""
        meeting = Meeting(run.name, plan, crew, deadlines_of(run))
        status = meeting.status()
        meeting.epoch = statuses.epoch_of(status)
        return cls(meeting, run, status, plan.seats)

    def only(self, replica: int) -> "TrainingEngine":
        """Return an engine over the same ranks that steps one replica."""
        seats = self.plan.seats.of_replica(replica)
        return TrainingEngine(self._meeting, self._run, self._status, seats)

    def train_step(self, batch: StepInput) -> StepReport:
        """Run one step of a global batch on the ranks driven.

        Each replica gets its part. Ranks that need no token numbers, or no labels, get none.
        """
        started = time.perf_counter()
        parts = {
            replica: part_of(batch, self._run.train, replica, self.plan.replicas)
            for replica in {seat.replica for seat in self._seats}
        }
        answers = self._meeting.tell_each(
            "train_step", {seat: self._needed(parts[seat.replica], seat) for seat in self._seats}
        )
        seconds = self._meeting.deadlines.command
        reports = self._meeting.gather(answers, f"step {batch.step}", seconds)
        return merge(reports, batch.label_count, time.perf_counter() - started)

    def snapshot(self, step: int) -> None:
        """Have every rank driven copy what it holds after ``step``, and wait until they have.

        All ranks of the run must, after the same step: each driver asks its own.
        """
        answers = self._meeting.tell("snapshot", step, seats=self._seats)
        self._meeting.gather(answers, "taking a snapshot", self._meeting.deadlines.command)

    def write(self, directory: Location, step: int) -> PendingWrites:
        """Have all ranks of the run write the snapshot of a step there, while they train on."""
        meeting, doing = self._meeting, f"writing {directory.name}"
        answers = meeting.tell("write", directory, step)
        return PendingWrites(
            list(answers.values()),
            lambda: meeting.gather(answers, doing, meeting.deadlines.command),
        )

    def written_before(self, step: int) -> None:
        """Wait until all ranks of the run have written what they took before a step."""
        seconds = self._meeting.deadlines.command
        deadline = time.monotonic() + seconds
        while late := statuses.unwritten_before(self.status(), step):
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"ranks {late} have not written the checkpoint before step {step} within "
                    f"{seconds:g} s; raise cluster.step_seconds or checkpoint.every"
                )
            time.sleep(POLL_SECONDS)

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
