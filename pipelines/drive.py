"""What the Ray Train worker does: drives the actors of a run, step by step, and owns none of it.

Killed and started again, the worker takes over the living actors where they stand. Only where an
actor is gone are all started anew from the newest checkpoint.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import ray.train
from ray.actor import ActorHandle
from ray.train import Checkpoint

from actors import launch
from actors.checkpointing import SaveContext
from actors.commands import StepInput, StepReport
from actors.engine import Engine
from moe.checkpoint.drafts import prune
from moe.checkpoint.manifest import checkpoints, step_directory
from moe.config.run import RunConfig
from moe.errors import DeadlineExceeded, RankLost, RaymoeError
from moe.planning.plan import Plan
from pipelines.board import Board, post, still_wanted
from pipelines.corpus.order import rows_of_step
from pipelines.corpus.shards import IGNORED, TokenShards
from pipelines.recording import RunRecord


@dataclass(frozen=True, slots=True)
class Assignment:
    """One run to drive, what its checkpoints hold beside it, and the board it reports to."""

    plan: Plan
    context: SaveContext
    board: ActorHandle[Board]

    @property
    def run(self) -> RunConfig:
        """The run."""
        return self.context.run


@dataclass(frozen=True, slots=True)
class Outcome:
    """How driving ended: at which step, short of the last if stopped, or with which error.

    The error is one that no restart can mend; others are raised, for Ray Train to try again.
    """

    step: int
    error: RaymoeError | None = None


def drive(settings: dict[str, Assignment]) -> Outcome:
    """Train to the last step; the function that Ray Train runs in its worker."""
    work = settings["assignment"]
    try:
        return _drive(work)
    except (RankLost, DeadlineExceeded):
        if still_wanted(work.board):
            raise
        return Outcome(step=0)
    except RaymoeError as error:
        return Outcome(step=0, error=error)


def _drive(work: Assignment) -> Outcome:
    run = work.run
    shards = TokenShards.open(run.data.path, "train")
    if not still_wanted(work.board):
        return Outcome(step=0)
    prune(run.checkpoint.path, run.checkpoint.keep)
    engine = obtain(run, work.plan, shards.sequence_length)
    done = engine.steps_done()
    if not still_wanted(work.board):
        return Outcome(done)
    with closing(RunRecord(run.name, run.checkpoint.path)) as record:
        _catch_up(record, engine, work, shards)
        for batch in batches(run, shards, done):
            report = engine.train_step(batch)
            record.step(report)
            wanted = post(work.board, report)
            if _checkpoint_due(run, report.step):
                _save(engine, work.context, report)
            if not wanted:
                return Outcome(report.step)
    return Outcome(max(done, run.train.steps))


def obtain(run: RunConfig, plan: Plan, sequence_length: int) -> Engine:
    """Return an engine over the living actors of a run, or over new ones."""
    engine = Engine.attach(run, plan)
    if engine is not None:
        return engine
    launch.remove(run.name)
    saved = checkpoints(run.checkpoint.path)
    source = saved[-1] if saved else run.model.path
    return Engine.train(run, plan, source, sequence_length, resume=bool(saved))


def batches(run: RunConfig, shards: TokenShards, first: int) -> Iterator[StepInput]:
    """Yield the global batch of every step from ``first``: a function of the step alone."""
    for step in range(first, run.train.steps):
        rows = rows_of_step(step, run.train.global_batch, run.data.seed, len(shards))
        batch = shards.batch(rows)
        count = int((batch.labels != IGNORED).sum())
        yield StepInput(step, batch.tokens, batch.labels.astype("int32"), count)


def _catch_up(record: RunRecord, engine: Engine, work: Assignment, shards: TokenShards) -> None:
    """Do what a dead driver may have left undone: record the last step, and save it."""
    run = work.run
    report = engine.last_report()
    record.rewind(engine.steps_done())
    if report is None:
        return
    if record.last_step() < report.step:
        count = next(batches(run, shards, report.step - 1)).label_count
        report = replace(report, tokens=count)
        record.step(report)
        post(work.board, report)
    saved = step_directory(run.checkpoint.path, report.step)
    if _checkpoint_due(run, report.step) and not saved.exists():
        _save(engine, work.context, report)


def _checkpoint_due(run: RunConfig, step: int) -> bool:
    every = run.checkpoint.every
    return step == run.train.steps or (every > 0 and step % every == 0)


def _save(engine: Engine, context: SaveContext, report: StepReport) -> None:
    """Let the actors write a checkpoint, and tell Ray Train where it lies."""
    run = context.run
    directory = step_directory(run.checkpoint.path, report.step)
    engine.save(directory, context)
    prune(run.checkpoint.path, run.checkpoint.keep)
    metrics = {"step": report.step, "loss": report.loss, "drop_rate": report.drop_rate}
    with tempfile.TemporaryDirectory() as pointer:
        place = {"step": report.step, "directory": str(directory)}
        (Path(pointer) / "checkpoint.json").write_text(json.dumps(place), encoding="utf-8")
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(pointer))
