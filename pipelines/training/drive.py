"""The Ray Train worker of a run: it drives the actors of all replicas and owns none of them.

It takes over the running actors in their present state; if an actor is gone, it starts all actors
from the newest checkpoint. It also records the run and completes its checkpoints. A worker that was
killed and restarted finds the actors as they were left, perhaps in the middle of a step; it then
commands that step again.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

from ray.actor import ActorHandle

from actors.commands import StepInput
from actors.crew.ending import remove
from actors.engine import over_ray
from actors.engine.training import TrainingEngine
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
from pipelines.training.board import Board, begin, plan_on, post, still_wanted
from pipelines.training.recording import RunRecord
from pipelines.training.run_plan import NOTHING, plan_with_room
from pipelines.training.saving import CheckpointSaver


@dataclass(frozen=True, slots=True)
class Work:
    """A run to drive: the context of its checkpoints, its plan, and the board for its reports.

    ``plan`` covers the largest number of replicas; None if the driver makes the plan for the nodes
    that are present, from what was ``found`` of them at the start.
    """

    plan: Plan | None
    context: SaveContext
    board: ActorHandle[Board]
    found: Findings = NOTHING

    @property
    def run(self) -> RunConfig:
        """The run."""
        return self.context.run


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
    shards = TokenShards.open(run.data.path, "train")
    prune(run.checkpoint.location, run.checkpoint.keep)
    engine = obtain(work, shards.sequence_length)
    done = engine.steps_done()
    begin(work.board, engine.plan, done)
    with (
        closing(RunRecord(run.name, run.checkpoint.path)) as record,
        CheckpointSaver(engine, work.context, record.checkpoint) as saver,
    ):
        _catch_up(record, engine, work, shards)
        if _unsaved(run, engine, done):
            saver.take(done)
        for batch in batches(run, shards, done):
            if not still_wanted(work.board):
                break
            report = engine.train_step(batch)
            record.step(report)
            post(work.board, report)
            saver.tell(report)
            if due(run, report.step):
                saver.take(report.step)
            done = report.step
        saver.finish()
    return Outcome(done)


def obtain(work: Work, sequence_length: int) -> TrainingEngine:
    """Return an engine over the running actors of a run, or over new actors."""
    run = work.run
    before = plan_on(work.board)
    if before is not None:
        engine = over_ray.attach(run, before)
        if engine is not None:
            return engine
    remove(run.name)
    plan = plan_with_room(run, work.context.config, sequence_length, work.plan, work.found)
    saved = checkpoints(run.checkpoint.location)
    source = CheckpointSource(saved[-1].absolute()) if saved else ModelSource(run.model.path)
    return over_ray.train(run, plan, source, sequence_length)


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
