"""The Ray Train worker of a run: it drives the actors of all replicas and owns none of them.

It takes over the running actors in their present state; if an actor is gone, it starts all actors
from the newest checkpoint. It also records the run and completes its checkpoints. A worker that was
killed and restarted finds the actors as they were left, perhaps in the middle of a step; it then
commands that step again.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

from ray.actor import ActorHandle

from actors.commands import StepInput
from actors.crew.ending import remove
from actors.engine import over_ray, presence
from actors.engine.healing import Healed, Making, Surroundings
from actors.engine.losses import Losses
from actors.engine.resizing import Resized, Unchanged
from actors.engine.training import TrainingEngine
from actors.faults.armed import NO_FAULTS, FaultPlan
from actors.state.sources import Blank, CheckpointSource, ModelSource, Source
from moe.checkpoint.drafts import prune
from moe.checkpoint.manifest import checkpoints
from moe.checkpoint.training import SaveContext
from moe.config.run import RunConfig
from moe.errors import (
    ClusterBusy,
    DeadlineExceeded,
    LaunchError,
    PlanError,
    RankLost,
    RaymoeError,
    RunStopped,
)
from moe.planning.plan.plan import Plan
from moe.planning.policy.decision import Decision, Restore
from pipelines.corpus.order import rows_of_step
from pipelines.corpus.shards import IGNORED, TokenShards
from pipelines.planning.probing import Findings
from pipelines.training.beginning import how_to_go_on, last_step
from pipelines.training.board import (
    Board,
    answer,
    begin,
    follow,
    orders,
    plan_on,
    post,
    still_wanted,
)
from pipelines.training.copy_room import without_copies
from pipelines.training.faults import strike_nodes
from pipelines.training.mended import Lost, Mended, first_line
from pipelines.training.recording import RunRecord
from pipelines.training.rescaled import NotRescaled, Rescaled
from pipelines.training.run_plan import NOTHING, plan_with_room
from pipelines.training.saving import CheckpointSaver
from pipelines.training.timeline import NOBODY, Began, Scene
from pipelines.training.wishes import Present, Wish, present, smaller, wished

DRIVER = "the driver was lost"
"""The cause of a loss that the next driver finds."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """A run to drive: the context of its checkpoints, its plan, and the board for its reports.

    ``plan`` covers the largest number of replicas; None if the driver makes the plan for the nodes
    that are present, from what was ``found`` of them at the start. ``faults`` are those that the
    run is to suffer. ``copies``: whether the ranks keep copies, as the run file says and the memory
    allows. ``living`` is the plan of actors that a command line before this one has left, if they
    are to be taken over.
    """

    plan: Plan | None
    context: SaveContext
    board: ActorHandle[Board]
    copies: bool
    found: Findings = NOTHING
    faults: FaultPlan = NO_FAULTS
    living: Plan | None = None

    @property
    def run(self) -> RunConfig:
        """The run, without copies where there is no room for them."""
        return self.context.run if self.copies else without_copies(self.context.run)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: the last step done (below the final step if the run was stopped), or an
    error.

    ``error`` is an error that no restart can fix; any other error is raised, so that Ray Train
    tries again.
    """

    step: int
    error: RaymoeError | None = None


def drive(settings: dict[str, Work]) -> Outcome:
    """Train to the last step; the function that Ray Train runs in its worker."""
    work = settings["work"]
    try:
        return _driven(work)
    except (RankLost, DeadlineExceeded, ClusterBusy):
        if still_wanted(work.board):
            raise
        return Outcome(step=0)
    except RaymoeError as error:
        if work.plan is None and isinstance(error, LaunchError | PlanError):
            raise  # Nodes came or went; Ray Train tries again with the present ones.
        return Outcome(step=0, error=error)


def _driven(work: Work) -> Outcome:
    run = work.run
    if not still_wanted(work.board):
        return Outcome(step=0)
    prune(run.checkpoint.location, run.checkpoint.keep)
    with closing(RunRecord(run.name, run.checkpoint.path)) as record:
        return Driver(work, TokenShards.open(run.data.path, "train"), record).run()


class Driver:
    """Trains a run to its end: obtains its actors, commands steps, mends what is lost."""

    def __init__(self, work: Work, shards: TokenShards, record: RunRecord) -> None:
        self._work = work
        self._run = work.run
        self._shards = shards
        self._record = record
        self._making = Making(
            work.run, Blank.of(self._source()), shards.sequence_length, work.faults
        )
        self._losses = Losses(work.run.elastic.failure_seconds)
        self._reached = self._done = 0
        self._plan_told: Plan | None = None
        self._wished: Plan | None = None
        self._new = plan_on(work.board) is None
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
                self._count(error, self._scene())
                cause = error

    def _begun(self) -> TrainingEngine:
        """Return an engine over the actors of the run; one that dies while it starts is no end."""
        while True:
            try:
                return self._obtain()
            except (RankLost, DeadlineExceeded) as error:
                self._count(error, NOBODY)
                self._check_budget(error)

    def _count(self, cause: RaymoeError, scene: Scene) -> None:
        """Count a loss; a run that nobody wants any more ends with it."""
        if not still_wanted(self._work.board):
            raise cause
        logger.warning("%s", cause)
        self._losses.note()
        self._record.faults(self._work.faults)
        self._tell(Lost.of(self._done, cause), scene)

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
        self._begin(first)
        _catch_up(self._record, engine, self._work, self._shards)
        self._record.faults(self._work.faults)
        with CheckpointSaver(engine, self._work.context, self._record.checkpoint) as saver:
            if first and due(self._run, first) and not engine.busy():
                saver.take(first)  # unless it is there: who was to save it may have been lost
            self._copy(first, 0.0)
            for batch in batches(self._run, self._shards, first):
                told = orders(board)
                if not told.go_on:
                    break
                if told.wish is not None:
                    self._meet(told.wish, saver)
                self._reached = max(self._reached, batch.step + 1)
                strike_nodes(self._work.faults, batch.step, engine.plan.seats, engine.nodes)
                report = engine.train_step(batch)
                self._done = report.step
                self._record.step(report)
                self._record.spares(engine.spares)
                self._record.faults(self._work.faults)
                post(board, report)
                saver.tell(report)
                if report.step == first + 1:
                    engine.warm()
                if due(self._run, report.step):
                    saver.take(report.step)
                self._copy(report.step, report.seconds)
            saver.finish()
        return self._done

    def _begin(self, done: int) -> None:
        """Tell under which plan the ranks train from now on, where that is new."""
        if self._engine.plan != self._plan_told:
            begin(self._work.board, self._engine.plan, done)
            self._record_plan(done)

    def _record_plan(self, done: int) -> None:
        plan = self._engine.plan
        began = Began(done, plan.replicas, plan.replicas * plan.ranks, self._new)
        self._record.began(began, self._scene())
        self._plan_told, self._new = plan, False

    def _scene(self) -> Scene:
        """Who trains now, and where."""
        engine = self._engine
        ranks: dict[str, list[int]] = {}
        for seat, node in engine.nodes.items():
            ranks.setdefault(node, []).append(engine.plan.seats.rank(seat))
        return Scene(engine.epoch, ranks, engine.spares)

    def _copy(self, step: int, step_seconds: float) -> None:
        """Take copies where they are due, and record those that have become whole."""
        if step < self._run.train.steps:
            copied = self._engine.copying.after(step, step_seconds)
            if copied is not None:
                self._record.copied(copied)

    def _mend(self, cause: RaymoeError) -> None:
        """Have the ranks go on together after a loss: healed, or anew from the checkpoint."""
        found = self._engine.recover(self._around())
        if isinstance(found, Healed):
            self._tell(Mended.of(found, self._reached, first_line(cause)), self._scene())
        elif isinstance(found, Resized):
            self._tell(Mended.over(found, self._reached, first_line(cause)), self._scene())
            self._resized(found)
        elif isinstance(found, Restore):
            self._restore(found, cause)
        else:
            raise RunStopped(f"{cause}; {found.reason}; {how_to_go_on(self._run)}")

    def _meet(self, wish: Wish, saver: CheckpointSaver) -> None:
        """Meet a wish for another plan between two steps, or say why not."""
        board, engine, done = self._work.board, self._engine, self._done
        saver.finish()
        try:
            plan = wished(wish, self._present())
        except RaymoeError as error:
            self._answer(NotRescaled.refused(done, error))
            return
        found = engine.consider(replace(self._around(), wish=plan))
        if isinstance(found, Resized):
            self._wished = plan
            answer(board, self._resized(found))
        elif isinstance(found, Unchanged):
            self._answer(NotRescaled.of(done, found))
            if found.disturbed:
                raise RankLost(found.reason)

    def _answer(self, told: NotRescaled) -> None:
        self._record.resized(told, self._scene())
        post(self._work.board, told)
        answer(self._work.board, told)

    def _resized(self, resized: Resized) -> Rescaled:
        """Tell of another plan, under which training goes on."""
        told = Rescaled.of(resized)
        self._record.resized(told, self._scene())
        post(self._work.board, told)
        self._record_plan(resized.step)
        copied = self._engine.copying.newest
        if copied is not None:
            self._record.copied(copied)
        self._engine.warm()
        return told

    def _present(self) -> Present:
        context, length = self._work.context, self._shards.sequence_length
        return present(context, length, self._engine, self._work.found)

    def _restore(self, decision: Restore[Plan], cause: RaymoeError) -> None:
        began = time.monotonic()
        self._engine.shutdown()
        self._engine = self._launched()
        self._restored(self._reached, first_line(cause), decision.reason, began)

    def _restored(self, reached: int, cause: str, reason: str, began: float) -> None:
        """Tell that all ranks have started anew from the checkpoint."""
        seconds = {"restored": time.monotonic() - began}
        step = self._engine.steps_done()
        mended = Mended(step, reached, (), True, cause, reason, seconds)
        self._tell(mended, self._scene())

    def _tell(self, news: Lost | Mended, scene: Scene) -> None:
        """Record a loss, or what was mended, and have the command line show it."""
        self._record.loss(news, scene)
        post(self._work.board, news)

    def _around(self, patient: bool = False) -> Surroundings:
        return Surroundings(
            last_step(self._run),
            self._losses.counted,
            patient,
            wanted=lambda: still_wanted(self._work.board),
            smaller=lambda how, gone: smaller(how, gone, self._present()),
            planned=lambda plan: follow(self._work.board, plan),
        )

    def _obtain(self) -> TrainingEngine:
        """Return an engine over the running actors of the run, or over new actors."""
        before = plan_on(self._work.board) or self._work.living
        engine = None if before is None else self._attached(before)
        if engine is not None:
            return engine
        began = time.monotonic()
        remove(self._run.name)
        self._engine = self._launched()
        if before is not None:
            reason = "the driver was lost, and what it left could not go on"
            self._restored(self._record.last_step(), DRIVER, reason, began)
        return self._engine

    def _attached(self, plan: Plan) -> TrainingEngine | None:
        """Take over the actors as the driver before left them; None where they cannot go on."""
        try:
            engine = over_ray.attach(plan, self._making)
            if engine is None or engine.sound():
                return engine
        except (RankLost, DeadlineExceeded) as error:
            logger.warning("the actors of %s could not be taken over: %s", self._run.name, error)
            return None
        self._engine = engine
        self._tell(Lost(self._record.last_step(), DRIVER), self._scene())
        found = self._recovered(engine)
        if not isinstance(found, Healed):
            return None
        self._tell(Mended.of(found, self._record.last_step(), DRIVER), self._scene())
        return engine

    def _recovered(self, engine: TrainingEngine) -> Healed | Resized | Decision[Plan]:
        """Have ranks that a driver left go on together, also where more are lost meanwhile."""
        patient = True
        while True:
            try:
                return engine.recover(self._around(patient))
            except (RankLost, DeadlineExceeded) as error:
                self._count(error, self._scene())
                patient = False

    def _launched(self) -> TrainingEngine:
        """Start all actors from the newest checkpoint, or from the model."""
        work, run, length = self._work, self._run, self._shards.sequence_length
        wanted = self._wished or work.plan
        plan = plan_with_room(run, work.context.config, length, wanted, work.found)
        return over_ray.begin(plan, self._source(), self._making, self._losses)

    def _source(self) -> Source:
        """The newest checkpoint, or the model that the run begins with."""
        saved = checkpoints(self._run.checkpoint.location)
        return (
            CheckpointSource(saved[-1].absolute()) if saved else ModelSource(self._run.model.path)
        )


def batches(run: RunConfig, shards: TokenShards, first: int) -> Iterator[StepInput]:
    """Yield the global batch of every step from ``first``: a function of the step alone."""
    for step in range(first, run.train.steps):
        rows = rows_of_step(step, run.train.global_batch, run.data.seed, len(shards))
        batch = shards.batch(rows)
        count = int((batch.labels != IGNORED).sum())
        yield StepInput(step, batch.tokens, batch.labels.astype("int32"), count)


def due(run: RunConfig, step: int) -> bool:
    """Return whether a checkpoint is due after ``step`` steps."""
    every = run.checkpoint.every
    return step == run.train.steps or (every > 0 and step % every == 0)


def _catch_up(record: RunRecord, engine: TrainingEngine, work: Work, shards: TokenShards) -> None:
    """Record the last step if a driver died before it recorded that step."""
    report = engine.last_report()
    record.rewind(engine.steps_done())
    if report is None or record.last_step() >= report.step:
        return
    count = next(batches(work.run, shards, report.step - 1)).label_count
    report = replace(report, tokens=count)
    record.step(report)
    post(work.board, report)
