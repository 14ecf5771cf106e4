"""A training run from its file to its last checkpoint: Ray Train drives the actors."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.train import FailureConfig, ScalingConfig, TrainingFailedError
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchTrainer

from actors.commands import StepReport
from actors.crew import ending, launch
from actors.crew.reservation import groups_of
from actors.state.checkpointing import SaveContext
from cluster.session import Session, session
from moe.checkpoint.manifest import checkpoints, load_manifest
from moe.checkpoint.reader import Checkpoint
from moe.config.json_file import read_json
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.config.run.cautions import model_cautions
from moe.errors import (
    ClusterError,
    ConfigError,
    RankLost,
    RaymoeError,
    StorageError,
)
from moe.planning.plan.plan import Plan
from moe.storage import Location
from moe.surgery.receipt import RECEIPT
from pipelines.corpus.inputs import fingerprint, open_shards
from pipelines.corpus.shards import TokenShards
from pipelines.training.board import Board, open_board, stop
from pipelines.training.drive import Assignment, Outcome, drive
from pipelines.training.run_plan import fullest_plan, replicas_of

POLL_SECONDS = 0.1

QUIET_SECONDS = 10.0
"""Workers that have started nothing for so long, though they may, are not there."""
WORKER_BYTES = 2**20
"""Memory a driving worker reserves; it computes nothing, so it takes no CPU from the ranks."""

OnStep = Callable[[StepReport], None]
Resume = Literal["never", "always", "if-saved"]
"""What to do about checkpoints of this run: refuse them, require one, or take the newest if any."""

OnStart = Callable[[Plan, Session], None]


def train(run: RunConfig, resume: Resume, on_start: OnStart, on_step: OnStep) -> Location:
    """Run to the last step and return the last checkpoint; leave no actor behind, come what may.

    ``on_start`` is told the plan and the Ray session before any actor starts, ``on_step`` every
    finished step.
    """
    run = with_absolute_paths(run)
    config, shards = check_inputs(run)
    context = SaveContext(config, run, run.model.path, fingerprint(run.data.path))
    _check_beginning(context, resume)
    _configure_ray_train(run)
    with _termination_interrupts(), session(run.cluster.address, run.cluster.cpus) as joined:
        plan = fullest_plan(run, config, shards.sequence_length)
        with _termination_interrupts(), open_board(run.name) as board:  # Ray has taken SIGTERM
            if ending.running(run.name):
                raise launch.name_taken(run.name)
            on_start(plan, joined)
            try:
                outcome = _fit(board, plan, context, on_step)
            finally:
                ending.remove(run.name)
    if outcome.error is not None:
        raise outcome.error
    if outcome.step < run.train.steps:
        raise ClusterError(
            f"{run.name} was stopped before step {run.train.steps}; --resume continues it from the "
            "last checkpoint"
        )
    return checkpoints(run.checkpoint.location)[-1]


def with_absolute_paths(run: RunConfig) -> RunConfig:
    """Return the run with paths that mean the same in every process."""
    sections = {
        name: section.model_copy(update={"path": section.path.absolute()})
        for name, section in (
            ("model", run.model),
            ("data", run.data),
            ("checkpoint", run.checkpoint),
        )
    }
    return run.model_copy(update=sections)


def check_inputs(run: RunConfig) -> tuple[ModelConfig, TokenShards]:
    """Open model and data before anything starts, and check that they fit each other."""
    config = Checkpoint.open(run.model.path).config
    shards = open_shards(run.model.path, config, run.data.path, "train")
    run.check_model(config)
    try:
        run.checkpoint.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make checkpoint.path {run.checkpoint.path}: {error.strerror}; choose another"
        ) from error
    return config, shards


def cautions(run: RunConfig) -> list[str]:
    """Return what a person should know before the run that is no error."""
    model = Checkpoint.open(run.model.path)
    found = [*model.notes, *model_cautions(run, model.config)]
    fresh = _upcycled(run.model.path) and not checkpoints(run.checkpoint.location)
    if fresh and run.routing.capacity_factor is not None:
        found.append(
            f"routing.capacity_factor {run.routing.capacity_factor:g} drops tokens, and just after "
            "upcycling routers are random: the loss will start far above the dense model's. Train "
            "without it first; the virtual drop rate is measured all the same."
        )
    return found


def _upcycled(model: Path) -> bool:
    """Tell whether a model comes from a dense one; its receipt says so."""
    receipt = model / RECEIPT
    return receipt.exists() and read_json(receipt).get("method") != "init"


def _check_beginning(context: SaveContext, resume: Resume) -> None:
    run = context.run
    saved = checkpoints(run.checkpoint.location)
    if saved and resume == "never":
        raise ConfigError(
            f"{run.checkpoint.location} holds checkpoints up to {saved[-1].name}; "
            "continue with --resume or give another checkpoint.path"
        )
    if resume == "always" and not saved:
        raise ConfigError(
            f"nothing to resume: {run.checkpoint.location} holds no complete checkpoint"
        )
    if saved:
        _check_same_run(context, saved[-1])


def _check_same_run(context: SaveContext, checkpoint: Location) -> None:
    """Refuse to resume with what would make it another run; length and schedule may change."""
    manifest = load_manifest(checkpoint)
    before, now = manifest.run, context.run.model_dump(mode="json")
    changed = [
        f"{section}.{key} was {before.get(section, {}).get(key)!r} and is {value!r}"
        for section in ("data", "train", "routing", "balance")
        for key, value in now[section].items()
        if before.get(section, {}).get(key) != value
        and (section, key) not in (("train", "steps"), ("train", "schedule"))
    ]
    if Checkpoint.open(checkpoint).config != context.config:
        changed.append(f"{context.run.model.path} is another architecture")
    if manifest.data != context.data:
        changed.append(f"{context.run.data.path} was tokenized again")
    if context.run.train.steps < manifest.step:
        changed.append(f"train.steps is {context.run.train.steps}, below the {manifest.step} done")
    if changed:
        raise ConfigError(
            f"--resume continues the run of {checkpoint}, but {'; '.join(changed)}; "
            "undo the change or start a new run from that checkpoint as its model.path"
        )


def _fit(board: ActorHandle[Board], plan: Plan, context: SaveContext, on_step: OnStep) -> Outcome:
    """Let Ray Train drive the run in a thread while this one watches the board.

    Interrupted, it waits for the workers to end. Where Ray Train is waiting itself, for nodes to
    run workers on, there are none; that wait ends with this process.
    """
    name = context.run.name
    elastic = context.run.plan.least_replicas is not None
    fitting = _begun(_trainer(Assignment(None if elastic else plan, context, board)).fit)
    try:
        while not fitting.done():
            time.sleep(POLL_SECONDS)
            _show(board, on_step)
    except BaseException:
        _end(name, fitting)
        raise
    _show(board, on_step)
    return _outcome(fitting.result)


def _end(name: str, fitting: "Future[Any]") -> None:
    """Remove what a run has started, and what its workers still start, until they have ended."""
    stop(name)
    ending.remove(name)
    quiet = time.monotonic()
    while not fitting.done() and time.monotonic() - quiet < QUIET_SECONDS:
        if ending.running(name) or groups_of(name):
            ending.remove(name)
            quiet = time.monotonic()
        time.sleep(POLL_SECONDS)


def _begun(work: Callable[[], Any]) -> "Future[Any]":
    """Do something in a thread that does not keep the process."""
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="Ray Train", daemon=True).start()
    return done


def _trainer(assignment: Assignment) -> TorchTrainer:
    run, worker = assignment.run, cast(Any, drive)
    least, most = replicas_of(run)
    return TorchTrainer(
        worker,
        train_loop_config={"assignment": assignment},
        scaling_config=cast(Any, ScalingConfig)(
            num_workers=most if least == most else (least, most),
            resources_per_worker={
                "CPU": 0,
                "memory": WORKER_BYTES,
                **run.cluster.worker_resources,
            },
            elastic_resize_monitor_interval_s=run.cluster.resize_seconds,
        ),
        run_config=RayRunConfig(
            name=f"{run.name}-{time.strftime('%Y%m%d-%H%M%S')}",
            storage_path=str(run.checkpoint.path / ".ray-train"),
            failure_config=FailureConfig(max_failures=run.cluster.max_failures),
        ),
    )


def _show(board: ActorHandle[Board], on_step: OnStep) -> None:
    reports: list[StepReport] = ray.get(board.drain.remote())
    for report in reports:
        on_step(report)


def _outcome(result: Callable[[], Any]) -> Outcome:
    """Return how the run ended; errors of the worker come out as they were raised there."""
    try:
        outcome = result().return_value
    except TrainingFailedError as error:
        for failure in getattr(error, "worker_failures", {}).values():
            cause = getattr(failure, "cause", failure)
            if isinstance(cause, RaymoeError):
                raise cause from None
        raise RankLost(f"Ray Train gave up: {error}") from error
    except RayError as error:
        raise ClusterError(f"Ray Train could not run: {error}") from error
    if not isinstance(outcome, Outcome):
        raise RankLost("Ray Train ended without an outcome; see the logs of its worker")
    return outcome


def _configure_ray_train(run: RunConfig) -> None:
    """Notice a dead worker within a fraction of a second, show the run, and wait for nothing long.

    Workers wait for each other while one launches actors, and after a step for the slowest. Ray
    Train may ask for workers whose nodes have just gone; it looks again when they do not start.
    """
    cluster = run.cluster
    patience = 3 * cluster.launch_seconds + cluster.step_seconds
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", str(patience))
    if run.plan.least_replicas is not None:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Treat SIGTERM, which ends a Ray job, like Ctrl-C, so that the run cleans up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
