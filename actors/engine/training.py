"""Trains one plan: steps of all ranks at once, copies, checkpoints, and takeover by a new driver.

The engine calls each rank once for a step and waits with a deadline. It holds no tensors.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import replace

from actors.commands import RankStatus, StepInput, StepReport
from actors.crew.arming import arm, arm_anew
from actors.crew.crew import Crew
from actors.deadlines import deadlines_of
from actors.engine import statuses
from actors.engine.copying import Copying
from actors.engine.healing import Healed, Healing, Making, Surroundings
from actors.engine.lending import Lent
from actors.engine.losses import Losses
from actors.engine.meeting import Meeting
from actors.engine.pace import Pace, bytes_held
from actors.engine.reports import merge
from actors.engine.resizing import Change, Resized, Resizing, Unchanged
from actors.state.checkpointing import PendingWrites
from actors.state.sources import Blank, Source
from actors.step.replicas import part_of
from moe.config.run import RunConfig
from moe.errors import RankLost
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.planning.policy.decision import Decision, GoOn, Replan, Resize
from moe.storage import Location


class TrainingEngine:
    """Trains the ranks of one plan, all its replicas, and mends them when some are lost."""

    def __init__(self, meeting: Meeting, making: Making, losses: Losses | None = None) -> None:
        self._meeting = meeting
        self._run = making.run
        self.losses = Losses(making.run.elastic.failure_seconds) if losses is None else losses
        self.copying = Copying(meeting, making.run.elastic, self.losses)
        self._making = making
        self._pace = Pace()

    @property
    def plan(self) -> Plan:
        """The plan of all replicas."""
        return self._meeting.plan

    @property
    def crew(self) -> Crew:
        """The ranks; those of another plan after a change."""
        return self._meeting.crew

    @property
    def epoch(self) -> int:
        """The membership epoch in which the ranks train."""
        return self._meeting.epoch

    @property
    def spares(self) -> int:
        """How many warm processes can take the place of a rank now."""
        return self._meeting.crew.spares()

    @property
    def nodes(self) -> Mapping[Seat, str]:
        """The node of each rank."""
        return self._meeting.crew.nodes()

    @classmethod
    def train(
        cls, crew: Crew, run: RunConfig, plan: Plan, source: Source, sequence_length: int
    ) -> "TrainingEngine":
        """Build the ranks of a crew from a source, and return an engine that trains them.

        ``sequence_length`` is that of a step, in tokens. On failure the ranks are ended.
        """
        return cls.begin(crew, plan, source, Making(run, Blank.of(source), sequence_length))

    @classmethod
    def begin(
        cls, crew: Crew, plan: Plan, source: Source, making: Making, losses: Losses | None = None
    ) -> "TrainingEngine":
        """Build the ranks of a crew from a source, armed with the faults of their run.

        ``losses`` are those that an engine of the run before this one has counted. On failure the
        ranks are ended.
        """
        run, progress = making.run, source.open().progress
        meeting = Meeting(run.name, plan, crew, deadlines_of(run))
        step = 0 if progress is None else progress.step
        arm(crew, making.faults, step, run.cluster.group_seconds)
        meeting.start(source, making.sequence_length, run)
        return cls(meeting, making, losses)

    @classmethod
    def attach(cls, crew: Crew, plan: Plan, making: Making) -> "TrainingEngine | None":
        """Take over the ranks of a run; None where they were built from another plan.

        ``recover`` must come first where they are not ``sound``.
        """
        meeting = Meeting(making.run.name, plan, crew, deadlines_of(making.run))
        found = meeting.statuses()
        if not statuses.built_for(found.values(), plan.replicas):
            return None
        meeting.epoch = statuses.epoch_of(found.values())
        if making.run.elastic.faults:
            arm_anew(crew, making.faults, min((rank.step for rank in found.values()), default=0))
        return cls(meeting, making)

    def warm(self) -> None:
        """Have processes wait, with all imports done, to take the places of ranks that are lost."""
        spares = self._run.elastic.spares
        self._meeting.crew.warm(spares if self.copying.holders else 0)

    def sound(self) -> bool:
        """Tell whether the ranks can do the next step as they stand.

        Ranks in the middle of a step may have been left there by a driver that died before it had
        commanded all: the step is commanded again, and who has done it answers at once.
        """
        found = self._meeting.statuses()
        together = len(found) == len(self.plan.seats)
        return together and statuses.can_be_driven(list(found.values()))

    def recover(self, around: Surroundings) -> Healed | Resized | Decision[Plan]:
        """Have the ranks go on together after a loss, or return what to do where they cannot.

        They go on under a smaller plan where what is left has no room for the one so far.
        """
        found = Healing(self._meeting, self._making).recover(around, self.copying.holders)
        self.copying.forget()
        if not isinstance(found, Replan):
            return found
        for seat in found.ends:
            self._meeting.crew.kill(seat)
        change = Change(found.shape, found.step, found.reason, gives=found.gives)
        done = self._change(change, around)
        if isinstance(done, Unchanged):
            raise RankLost(f"{found.reason}, which failed: {done.reason}")
        return done

    def consider(self, around: Surroundings) -> Resized | Unchanged | GoOn | None:
        """Between two steps, change the plan where a node goes or another plan is wished for.

        ``GoOn`` says why the ranks of a node that goes stay. None where there is nothing to do, or
        no step that all ranks have done.
        """
        healing = Healing(self._meeting, self._making)
        done: Resized | Unchanged | GoOn | None = None
        seconds = self._move_seconds(around.leaving)
        for room in (True, False):
            decision = healing.consider(around, room, seconds)
            if isinstance(decision, GoOn) and around.leaving and done is None:
                done = decision
            if not isinstance(decision, Resize):
                break
            shape, step = decision.shape, self.steps_done()
            done = self._change(Change(shape, step, decision.reason, decision.away), around)
            if isinstance(done, Resized) or done.disturbed or not decision.away:
                break
        return done

    def _change(self, change: Change, around: Surroundings) -> Resized | Unchanged:
        """Go on under another plan, or as before where that fails."""
        resizing = Resizing(self._meeting, self._making, self.losses)
        done = resizing.carry_out(change)
        if isinstance(done, Unchanged):
            return done
        around.planned(change.plan)
        self._meeting, self.copying = done.meeting, done.copying
        resizing.commit(done)
        self._pace.note(done.resized)
        return done.resized

    def _move_seconds(self, away: Collection[Seat]) -> float:
        """Return what it takes to move the ranks of some seats elsewhere; 0 for none."""
        if not away:
            return 0.0
        size = bytes_held(self._making, self.plan, away)
        return self._pace.seconds(size, self.copying.newest)

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
        report = merge(reports, batch.label_count, time.perf_counter() - started)
        return replace(report, computed_tokens=batch.token_count)

    def lent(self, replica: int) -> Lent:
        """Return one replica as a server uses it between two steps, in the present epoch."""
        return Lent(self._meeting, replica)

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

    def greet(self) -> None:
        """Let every rank know that it is driven; do not wait, and leave its work alone."""
        self._meeting.tell("status")

    def steps_done(self) -> int:
        """Return how many steps every rank has done."""
        return statuses.steps_done(self.status())

    def last_report(self) -> StepReport | None:
        """Return the report of the last step; None before the first.

        None also while some ranks have done the next. ``seconds`` are those of the slowest rank;
        numbers of tokens are 0, because ranks do not know them.
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
        return StepInput(
            part.step,
            part.tokens if self._takes_tokens(seat) else None,
            part.labels if plan.share(seat).head else None,
            part.label_count,
            part.documents,
        )

    def _takes_tokens(self, seat: Seat) -> bool:
        """Tell whether a step on a rank takes token numbers: to embed them, or to hash them."""
        moe = self._making.blank.architecture.moe
        return self.plan.share(seat).embedding or (moe is not None and moe.hashed)
