"""Drives a run to its end: commands its steps, saves, mends what is lost, changes its plan."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from actors.crew.ending import remove
from actors.engine import presence
from actors.engine.healing import Healed, Surroundings
from actors.engine.losses import Losses
from actors.engine.resizing import Resized, Unchanged
from actors.engine.training import TrainingEngine
from cluster.watch import NodeWatch
from moe.errors import (
    DeadlineExceeded,
    RankLost,
    RaymoeError,
    RunStopped,
)
from moe.planning.plan.plan import Plan
from moe.planning.policy.decision import Decision, GoOn, Restore
from pipelines.corpus.shards import TokenShards
from pipelines.training.aim import Aim
from pipelines.training.batches import batches, due
from pipelines.training.beginning import how_to_go_on, last_step
from pipelines.training.board import (
    aim,
    aimed_on,
    answer,
    follow,
    orders,
    plan_on,
    still_wanted,
)
from pipelines.training.expert_loads import ExpertLoads
from pipelines.training.faults import strike_nodes
from pipelines.training.following import Following
from pipelines.training.launching import Launching
from pipelines.training.lending import Lending
from pipelines.training.mended import Lost, Mended, Stays, first_line
from pipelines.training.news import News
from pipelines.training.recording import RunRecord
from pipelines.training.rescaled import NotRescaled, Rescaled
from pipelines.training.saving import CheckpointSaver
from pipelines.training.wishes import Present, Wish, present, smaller, wished
from pipelines.training.work import Outcome, Work

DRIVER = "the driver was lost"
"""The cause of a loss that the next driver finds."""

logger = logging.getLogger(__name__)


class Driver:
    """Trains a run to its end: obtains its actors, commands steps, mends what is lost."""

    def __init__(
        self, work: Work, shards: TokenShards, record: RunRecord, watch: NodeWatch
    ) -> None:
        self._work = work
        self._run = work.run
        self._shards = shards
        self._record = record
        self._news = News(work.board, record)
        self._launching = Launching(work, shards.sequence_length, self._news.awaits)
        self._losses = Losses(work.run.elastic.failure_seconds)
        began = Aim.of(work.run, work.context.config, shards.sequence_length, work.began)
        self._following = Following(began, watch)
        self._loads = ExpertLoads(work.run.elastic)
        self._lending = Lending(work.context)
        self._reached = self._done = last_step(work.run)
        self._aim(aimed_on(work.board))
        self._engine = self._begun()

    def run(self) -> Outcome:
        """Train to the last step, or to the step after which the run is no longer wanted."""
        with presence.present(lambda: self._engine.greet(), self._run.elastic.orphan_seconds):
            return self._run_on()

    def _run_on(self) -> Outcome:
        cause: RaymoeError | None = None
        while True:
            try:
                if cause is not None:
                    self._mend(cause)
                return Outcome(self._train())
            except (RankLost, DeadlineExceeded) as error:
                self._count(error, self._engine)
                cause = error

    def _begun(self) -> TrainingEngine:
        """Return an engine over the actors of the run; one that dies while it starts is no end."""
        while True:
            try:
                return self._obtain()
            except (RankLost, DeadlineExceeded) as error:
                self._count(error, None)
                self._check_budget(error)

    def _count(self, cause: RaymoeError, engine: TrainingEngine | None) -> None:
        """Count a loss; a run that nobody wants any more ends with it."""
        if not still_wanted(self._work.board):
            raise cause
        logger.warning("%s", cause)
        self._losses.note()
        self._record.faults(self._work.faults)
        self._news.lost(Lost.of(self._done, cause), engine)

    def _check_budget(self, cause: RaymoeError) -> None:
        most, counted = self._run.elastic.max_failures, self._losses.counted
        if counted > most:
            raise RunStopped(
                f"{cause}; {counted} losses within {self._run.elastic.failure_seconds:g} s, "
                f"elastic.max_failures allows {most}; {how_to_go_on(self._run)}"
            )

    def _train(self) -> int:
        """Command steps from where the ranks stand; return how many are done at the end."""
        engine, board = self._engine, self._work.board
        self._done = first = engine.steps_done()
        self._news.trains(engine, first)
        self._catch_up(first)
        self._record.faults(self._work.faults)
        with CheckpointSaver(engine, self._work.context, self._record.checkpoint) as saver:
            if first and due(self._run, first) and not engine.busy():
                saver.take(first)  # unless it is there: who was to save it may have been lost
            self._copy(first, 0.0)
            for batch in batches(self._run, self._shards, first):
                told = orders(board)
                if not told.go_on:
                    break
                self._follow(saver)
                if told.wish is not None:
                    self._meet(told.wish, saver)
                self._rebalance(saver)
                if self._done > first:  # only then is it known what memory a step takes
                    self._lending.between(engine, self._done, told.asking)
                self._reached = max(self._reached, batch.step + 1)
                strike_nodes(self._work.faults, batch.step, engine.plan.seats, engine.nodes)
                report = engine.train_step(batch)
                self._done = report.step
                self._loads.note(report)
                self._news.step(report, engine.spares)
                self._record.faults(self._work.faults)
                saver.tell(report)
                if report.step == first + 1:
                    engine.warm()
                if due(self._run, report.step):
                    saver.take(report.step)
                self._copy(report.step, report.seconds)
            saver.finish()
        return self._done

    def _catch_up(self, done: int) -> None:
        """Record the last step if a driver died before it recorded that step."""
        report = self._engine.last_report()
        self._record.rewind(done)
        if report is not None and self._record.last_step() < report.step:
            batch = next(batches(self._run, self._shards, report.step - 1))
            report = replace(report, tokens=batch.label_count, computed_tokens=batch.token_count)
            self._news.step(report, self._engine.spares)

    def _copy(self, step: int, step_seconds: float) -> None:
        """Take copies where they are due, and record those that have become whole."""
        if step < self._run.train.steps:
            copied = self._engine.copying.after(step, step_seconds)
            if copied is not None:
                self._record.copied(copied)

    def _mend(self, cause: RaymoeError) -> None:
        """Have the ranks go on together after a loss: healed, or anew from the checkpoint."""
        leaving = self._following.leaving(self._engine.nodes)
        found = self._engine.recover(replace(self._around(), leaving=leaving))
        self._go_on(found, first_line(cause))

    def _go_on(self, found: Healed | Resized | Decision[Plan], cause: str) -> None:
        """Tell how the ranks go on together after a loss; start them anew where they cannot."""
        if isinstance(found, Healed):
            self._news.mended(Mended.of(found, self._reached, cause), self._engine)
        elif isinstance(found, Resized):
            self._news.mended(Mended.over(found, self._reached, cause), self._engine)
            self._resized(found)
        elif isinstance(found, Restore):
            self._restore(found.reason, cause)
        elif not still_wanted(self._work.board):
            raise RankLost(cause)
        else:
            raise RunStopped(f"{cause}; {found.reason}; {how_to_go_on(self._run)}")

    def _meet(self, wish: Wish, saver: CheckpointSaver) -> None:
        """Meet a wish for another plan between two steps, or say why not."""
        board = self._work.board
        try:
            plan = wished(wish, self._present())
        except RaymoeError as error:
            told = NotRescaled.refused(self._done, error)
            answer(board, self._news.unchanged(told, self._engine))
            return
        self._change(replace(self._around(), wish=plan), saver, partial(answer, board))
        if self._engine.plan == plan:
            aim(board, plan)
            self._aim(plan)

    def _aim(self, plan: Plan | None) -> None:
        """Start anew under a plan, and grow to it, as the operator wished; None changes nothing."""
        if plan is not None:
            self._launching.wish(plan)
            self._following.aim(plan)

    def _rebalance(self, saver: CheckpointSaver) -> None:
        """Move experts between the ranks of their gangs where the load of the last steps asks."""
        plan = self._loads.better(self._engine.plan)
        if plan is not None:
            self._change(replace(self._around(), wish=plan), saver, lambda _: None)

    def _follow(self, saver: CheckpointSaver) -> None:
        """Leave nodes that go, in time, and grow where nodes come, as far as the run file says."""
        engine, following = self._engine, self._following
        changed, plan, nodes = following.changed(), engine.plan, engine.nodes
        if following.due(plan, nodes):
            following.decided()
            wish, leaving = following.wish(plan, nodes), following.leaving(nodes)
            if leaving or wish is not None:
                around = replace(self._around(), wish=wish, leaving=leaving)
                self._change(around, saver, following.told)
        if changed:
            engine.warm()

    def _change(
        self,
        around: Surroundings,
        saver: CheckpointSaver,
        tell: Callable[[Rescaled | NotRescaled], object],
    ) -> None:
        """Change the plan, unless something is more urgent, and tell what became of it.

        RankLost where the ranks must recover under the old plan.
        """
        saver.finish()
        found = self._engine.consider(around)
        if isinstance(found, Resized):
            tell(self._resized(found))
        elif isinstance(found, Unchanged):
            tell(self._news.unchanged(NotRescaled.of(self._done, found), self._engine))
            if found.disturbed:
                raise RankLost(found.reason)
        elif isinstance(found, GoOn):
            told = Stays(self._done, found.reason)
            self._news.stays(told, around.leaving, self._engine)

    def _resized(self, resized: Resized) -> Rescaled:
        """Go on under another plan."""
        told = self._news.resized(resized, self._engine)
        self._engine.warm()
        return told

    def _present(self) -> Present:
        context, length = self._work.context, self._shards.sequence_length
        return present(context, length, self._engine, self._work.found)

    def _restore(self, reason: str, cause: str) -> None:
        """Start all ranks anew from the checkpoint, as soon as a plan has room."""
        began = time.monotonic()
        self._engine.shutdown()
        self._engine = self._launching.anew(self._engine, self._losses, self._around)
        self._restored(self._engine, self._reached, cause, reason, began)

    def _restored(
        self, engine: TrainingEngine, reached: int, cause: str, reason: str, began: float
    ) -> None:
        """Tell that all ranks have started anew from the checkpoint."""
        seconds = {"restored": time.monotonic() - began}
        mended = Mended(engine.steps_done(), reached, (), True, cause, reason, seconds)
        self._news.mended(mended, engine)

    def _around(self, patient: bool = False) -> Surroundings:
        return Surroundings(
            last_step(self._run),
            self._losses.counted,
            patient,
            wanted=lambda: still_wanted(self._work.board),
            waits=lambda reason: self._news.waits(reason, self._engine),
            smaller=lambda how, gone: smaller(how, gone, self._present()),
            planned=lambda plan: follow(self._work.board, plan),
        )

    def _obtain(self) -> TrainingEngine:
        """Return an engine over the running actors of the run, or over new actors."""
        before = plan_on(self._work.board) or self._work.living
        engine = None if before is None else self._launching.attached(before)
        if engine is not None:
            return self._taken_over(engine)
        began = time.monotonic()
        remove(self._run.name)
        engine = self._launching.first(self._losses, before)
        if before is not None:
            reason = "the driver was lost, and what it left could not go on"
            self._restored(engine, self._record.last_step(), DRIVER, reason, began)
        return engine

    def _taken_over(self, engine: TrainingEngine) -> TrainingEngine:
        """Go on with the actors as the driver before left them."""
        self._engine = engine
        self._reached = self._done = self._record.last_step()
        if not self._sound(engine):
            self._news.lost(Lost(self._done, DRIVER), engine)
            self._go_on(self._recovered(engine), DRIVER)
        return self._engine

    def _sound(self, engine: TrainingEngine) -> bool:
        try:
            return engine.sound()
        except (RankLost, DeadlineExceeded):
            return False

    def _recovered(self, engine: TrainingEngine) -> Healed | Resized | Decision[Plan]:
        """Have ranks that a driver left go on together, also where more are lost meanwhile."""
        patient = True
        while True:
            try:
                return engine.recover(self._around(patient))
            except (RankLost, DeadlineExceeded) as error:
                self._count(error, engine)
                patient = False
