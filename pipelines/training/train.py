"""A training run from its file to its last checkpoint: Ray Train drives the actors."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.train import TrainingFailedError
from ray.train.torch import TorchTrainer

from actors.commands import StepReport
from actors.crew import ending
from actors.crew.reservation import groups_of
from cluster.session import Session, intent, session, starts
from moe.checkpoint.manifest import checkpoints
from moe.config.fault import Fault
from moe.config.run import RunConfig
from moe.errors import (
    ClusterError,
    RankLost,
    RaymoeError,
)
from moe.planning.plan.plan import Plan
from moe.storage import Location
from pipelines.training.beginning import (
    Resume,
    check_beginning,
    check_saved,
    how_to_go_on,
    last_step,
    with_absolute_paths,
)
from pipelines.training.board import Beginning, Board, Post, Told, open_board, stop
from pipelines.training.coming import measured_and_planned, wait_seconds
from pipelines.training.copy_room import as_built
from pipelines.training.deepspeed.drive import DeepSpeedWork
from pipelines.training.deepspeed.settings import settings_of
from pipelines.training.driver_node import await_node, be_patient, check_labels
from pipelines.training.faults import armed, check_faults, check_ranks
from pipelines.training.final import Final
from pipelines.training.owner import owned
from pipelines.training.run_plan import NOTHING
from pipelines.training.takeover import living_ranks, patience
from pipelines.training.trainers import actors_trainer, deepspeed_trainer
from pipelines.training.work import Outcome, Work

POLL_SECONDS = 0.1
SHOW_SECONDS = 1.0
"""Seconds that the command line waits for a post before it looks whether Ray Train still runs."""

QUIET_SECONDS = 10.0
"""Seconds after which workers that were requested and have not started count as absent."""
OnStart = Callable[[Plan, Session], None]
OnStep = Callable[[StepReport], None]
Tell = Callable[[str], object]

_LOG = logging.getLogger(__name__)


def train(
    run: RunConfig,
    resume: Resume,
    on_start: OnStart,
    on_step: OnStep,
    tell: Tell = _LOG.info,
    faults: Sequence[Fault] = (),
) -> Location:
    """Run to the last step and return the last checkpoint; always remove the actors of the run.

    Where the actors of the run live without a command line, a run that is resumed goes on with
    them as they stand.

    ``on_start`` is called with the plan and the Ray session before any actor starts, ``on_step``
    with every finished step, and ``tell`` with a line of text at every event between. The run
    suffers the ``faults``, if its file allows that.
    """
    run = with_absolute_paths(run)
    context, sequence_length = check_beginning(run, resume)
    settings = settings_of(run) if run.train.engine == "deepspeed" else None
    if last_step(run) == run.train.steps:
        tell(f"nothing to do: all {run.train.steps} steps are done; raise train.steps to go on")
        return checkpoints(run.checkpoint.location)[-1]
    check_faults(run, faults, last_step(run))
    check_labels(run)
    if starts(run.cluster.address):
        check_saved(run, resume)
    _configure_ray_train()
    be_patient(run)
    tell(intent(run.cluster.address))
    with (
        _termination_interrupts(),
        session(run.cluster.address, run.cluster.cpus) as joined,
        # Ray installs a handler of its own for SIGTERM when it starts, so ours is entered again
        # here. The one around the session covers the time in which Ray starts.
        _termination_interrupts(),
        open_board(run.name, patience(resume)) as board,
    ):
        watch = Watch(on_step, tell)
        if settings is not None:
            zero = DeepSpeedWork.of(context, board, settings)
            for note in settings.notes:
                tell(note)
            on_start(zero.plan, joined)
            with owned(run):
                return _ended(run, _fit(run.name, deepspeed_trainer(zero), board, watch))
        await_node(run, tell)
        living = living_ranks(run, resume, sequence_length)
        if living:
            # Actors that live have the devices, which therefore cannot be measured.
            found, made = NOTHING, as_built(run, living)
        else:
            found, made = measured_and_planned(run, context.config, sequence_length, tell)
        for note in found.notes:
            tell(note)
        plan = made.plan
        check_ranks(faults, plan)
        on_start(plan, joined)
        tell(made.told)
        with owned(run), armed(run, faults, tell) as fault_plan:
            kept = plan if run.plan.least_replicas is None else None
            copies = made.run.elastic.copies
            left = plan if living else None
            waits = wait_seconds(run)
            work = Work(kept, context, board, plan, copies, waits, found, fault_plan, left)
            outcome = _watched(work, plan, watch)
    return _ended(run, outcome)


def _ended(run: RunConfig, outcome: Outcome) -> Location:
    """Return the last checkpoint of a run that has ended; raise where it was stopped."""
    if outcome.step < run.train.steps:
        raise ClusterError(
            f"{run.name} was stopped before step {run.train.steps}; {how_to_go_on(run)}"
        )
    return checkpoints(run.checkpoint.location)[-1]


class Watch(NamedTuple):
    """The callbacks that follow a run."""

    on_step: OnStep
    tell: Tell


def _watched(work: Work, plan: Plan, watch: Watch) -> Outcome:
    """Run to the end, and always remove the actors."""
    run = work.run
    actors = plan.replicas * plan.ranks
    waited_for = "1 actor" if actors == 1 else f"{actors} actors"
    if work.living is None:
        watch.tell(f"waiting for {waited_for}, at most {run.cluster.launch_seconds:g} s")
    else:
        watch.tell(f"taking over {waited_for} of {run.name} where they stand")
    try:
        return _fit(run.name, actors_trainer(work), work.board, watch)
    finally:
        ending.remove(run.name)


def _fit(name: str, trainer: TorchTrainer, board: ActorHandle[Board], watch: Watch) -> Outcome:
    """Run Ray Train in a thread while this thread watches the board.

    After an interrupt, waits for the workers to end. While Ray Train waits for nodes there are no
    workers yet; that wait ends with this process.
    """
    fitting = _begun(trainer.fit)
    fitting.add_done_callback(lambda _: _wake(board))
    try:
        while not fitting.done():
            _show(board, watch, SHOW_SECONDS)
    except BaseException:
        watch.tell(f"ending the actors of {name}")
        _end(name, fitting)
        raise
    _show(board, watch, 0.0)
    return _outcome(fitting.result)


def _wake(board: ActorHandle[Board]) -> None:
    """End the wait for posts; after Ray has ended nobody waits, and a call would start it anew."""
    if ray.is_initialized():
        board.wake.remote()


def _end(name: str, fitting: "Future[Any]") -> None:
    """Remove the actors of a run until its workers have ended, because workers may still start
    some.
    """
    stop(name)
    ending.remove(name)
    quiet = time.monotonic()
    while not fitting.done() and time.monotonic() - quiet < QUIET_SECONDS:
        if ending.running(name) or groups_of(name):
            ending.remove(name)
            quiet = time.monotonic()
        time.sleep(POLL_SECONDS)


def _begun(work: Callable[[], Any]) -> "Future[Any]":
    """Start work in a daemon thread."""
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="Ray Train", daemon=True).start()
    return done


def _show(board: ActorHandle[Board], watch: Watch, seconds: float) -> None:
    """Show what is posted; wait at most ``seconds`` for it."""
    posts: list[Post] = ray.get(board.drain.remote(seconds))
    for post in posts:
        if isinstance(post, Beginning):
            watch.tell(_begins(post))
        elif isinstance(post, Told):
            watch.tell(post.line)
        else:
            watch.on_step(post)


def _begins(beginning: Beginning) -> str:
    after = f"continues after step {beginning.step}" if beginning.step else "begins"
    ready = "the actor is" if beginning.actors == 1 else f"{beginning.actors} actors are"
    return f"{ready} ready; training {after}"


def _outcome(result: Callable[[], Any]) -> Outcome:
    """Return how the run ended; raise an error of a worker with its original type."""
    try:
        outcome = result().return_value
    except TrainingFailedError as error:
        if isinstance(final := getattr(error, "controller_failure", None), Final):
            raise final.error from None
        for failure in getattr(error, "worker_failures", {}).values():
            cause = getattr(failure, "cause", failure)
            if isinstance(cause, RaymoeError):
                raise cause from None
        raise RankLost(f"Ray Train stopped trying: {error}") from error
    except RayError as error:
        raise ClusterError(f"Ray Train could not run: {error}") from error
    if not isinstance(outcome, Outcome):
        raise RankLost("Ray Train ended without an outcome; see the logs of its worker")
    return outcome


def _configure_ray_train() -> None:
    """Have Ray Train notice a dead worker within a second and record the state of the run.

    A node that is to leave is the driver's business: no second watch is kept beside it.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Treat SIGTERM, which stops a Ray job, like Ctrl-C, so that the run cleans up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
