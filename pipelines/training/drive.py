"""The Ray Train worker of one replica: it drives the actors step by step and owns none of them.

Worker 0 leads. It takes over the running actors of all replicas in their present state; if an actor
is gone, it starts all actors from the newest checkpoint. It also records the run and completes its
checkpoints. Workers that were killed and restarted find the actors as they left them, perhaps in
the middle of a step; the workers then command that step again.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import NamedTuple

import ray
import ray.train
from ray.actor import ActorHandle
from ray.train.collective import broadcast_from_rank_zero

from actors.commands import StepInput, StepReport
from actors.crew.ending import remove
from actors.engine import over_ray
from actors.engine.training import TrainingEngine
from actors.faults.armed import NO_FAULTS, FaultPlan
from actors.state.sources import CheckpointSource, ModelSource
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
)
from moe.planning.plan.plan import Plan
from pipelines.corpus.order import rows_of_step
from pipelines.corpus.shards import IGNORED, TokenShards
from pipelines.planning.probing import Findings
from pipelines.training.beginning import last_step
from pipelines.training.board import (
    Board,
    begin,
    fail,
    failure,
    go_on,
    plan_on,
    post,
    still_wanted,
)
from pipelines.training.recording import RunRecord
from pipelines.training.run_plan import NOTHING, plan_for
from pipelines.training.saving import CheckpointSaver


@dataclass(frozen=True, slots=True)
class Work:
    """A run to drive: the context of its checkpoints, its plan, and the board for its reports.

    ``plan`` covers the largest number of replicas; None if the leader makes the plan for the
    replicas that are present, from what was ``found`` of the nodes at the start. ``faults`` are
    those that the run is to suffer.
    """

    plan: Plan | None
    context: SaveContext
    board: ActorHandle[Board]
    found: Findings = NOTHING
    faults: FaultPlan = NO_FAULTS

    @property
    def run(self) -> RunConfig:
        """The run."""
        return self.context.run


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: the last step done (below the final step if the run was stopped), or an
    error.

    ``error`` is an error that no restart can fix; any other error is raised, so that Ray Train
    tries again. With several drivers, no driver may end while others wait for it, so each driver
    raises every error; drivers that start later read the final error from the board.
    """

    step: int
    error: RaymoeError | None = None


class Start(NamedTuple):
    """Where all workers begin: the step, and whether the checkpoint of that step is still
    unwritten.

    ``step`` is None if the run was stopped or the leader has found an error.
    """

    step: int | None
    save: bool = False


def drive(settings: dict[str, Work]) -> Outcome:
    """Train to the last step; the function that Ray Train runs in each worker."""
    work, context = settings["work"], ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    try:
        return _lead(work, size) if rank == 0 else _follow(work, rank)
    except (RankLost, DeadlineExceeded, ClusterBusy):
        if still_wanted(work.board):
            raise
        return Outcome(step=0, error=failure(work.board))
    except RaymoeError as error:
        if work.plan is None and isinstance(error, LaunchError | PlanError):
            raise  # Nodes came or went; Ray Train tries again with the present workers.
        if size == 1:
            return Outcome(step=0, error=error)
        fail(work.board, error)
        raise


def _lead(work: Work, replicas: int) -> Outcome:
    """Drive the first replica, and do the work that is done once per run."""
    run, start = work.run, Start(None)
    shards = TokenShards.open(run.data.path, "train")
    try:
        if still_wanted(work.board):
            prune(run.checkpoint.location, run.checkpoint.keep)
            engine = obtain(work, replicas, shards.sequence_length)
            done = engine.steps_done()
            begin(work.board, engine.plan, done)
            if still_wanted(work.board):
                start = Start(done, _unsaved(run, engine, done))
    finally:
        broadcast_from_rank_zero(tuple(start))
    if start.step is None:
        return Outcome(step=0, error=failure(work.board))
    with (
        closing(RunRecord(run.name, run.checkpoint.path)) as record,
        CheckpointSaver(engine, work.context, record.checkpoint) as saver,
    ):
        _catch_up(record, engine, work, shards)
        steps = _Steps(work, engine.only(0), saver, start)
        record.faults(work.faults)
        for report in steps.run(shards):
            record.step(report)
            record.faults(work.faults)
            post(work.board, report)
        return steps.outcome


def _follow(work: Work, replica: int) -> Outcome:
    """Drive another replica."""
    start = Start(*broadcast_from_rank_zero(None))
    shards = TokenShards.open(work.run.data.path, "train")
    plan = plan_on(work.board)
    if start.step is None or plan is None:
        return Outcome(step=0)
    engine = over_ray.beside(work.run, plan)
    steps = _Steps(work, engine.only(replica), CheckpointSaver(engine, None), start)
    for _ in steps.run(shards):
        pass
    return steps.outcome


class _Steps:
    """The steps of one replica, and the checkpoints between them."""

    def __init__(
        self, work: Work, engine: TrainingEngine, saver: CheckpointSaver, start: Start
    ) -> None:
        self._work = work
        self._engine = engine
        self._saver = saver
        self._start = start
        self.outcome = Outcome(start.step or 0)

    def run(self, shards: TokenShards) -> Iterator[StepReport]:
        """Yield the report of every step; between steps, save checkpoints and report them."""
        run, first = self._work.run, self._start.step or 0
        if self._start.save:
            self._saver.take(first, self._engine)
        for batch in batches(run, shards, first):
            report = self._engine.train_step(batch)
            yield report
            self._saver.tell(report)
            if due(run, report.step):
                self._saver.take(report.step, self._engine)
            self.outcome = Outcome(report.step)
            if not go_on(self._work.board, report.step):
                break
        self._saver.finish()


def obtain(work: Work, replicas: int, sequence_length: int) -> TrainingEngine:
    """Return an engine over the running actors of a run, or over new actors."""
    run = work.run
    before = plan_on(work.board)
    if before is not None and before.replicas == replicas:
        engine = over_ray.attach(run, before)
        if engine is not None:
            return engine
    remove(run.name)
    plan = work.plan or plan_for(run, work.context.config, sequence_length, replicas, work.found)
    saved = checkpoints(run.checkpoint.location)
    source = CheckpointSource(saved[-1].absolute()) if saved else ModelSource(run.model.path)
    plan = plan.of_replicas(replicas)
    return over_ray.train(run, plan, source, sequence_length, work.faults, last_step(run))


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


def _unsaved(run: RunConfig, engine: TrainingEngine, done: int) -> bool:
    """Return whether a driver died before it saved the checkpoint of the last step.

    If its ranks are in the next step already, the state of the last step no longer exists.
    """
    if not due(run, done) or engine.last_report() is None or engine.busy():
        return False
    return all(saved.name != f"step-{done:08d}" for saved in checkpoints(run.checkpoint.location))


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
