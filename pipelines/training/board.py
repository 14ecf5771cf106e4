"""Where a run meets the person who started it: reports go up, the wish to stop comes down.

Every replica of a run has a driver of its own and all must stop after the same step. A driver that
was told to go on may be in the next step already, so the wish takes effect after the latest step
that any of them was let into.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import (
    ActorAlreadyExistsError,
    ActorUnavailableError,
    GetTimeoutError,
    RayActorError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.commands import StepReport
from actors.crew.launch import name_taken
from moe.errors import RaymoeError
from moe.planning.plan.plan import Plan

WAIT_SECONDS = 30.0
"""A board does nothing but answer; one that is silent this long is out of reach."""


class Beginning(NamedTuple):
    """All actors of the run are ready: how many, and after how many steps training begins."""

    actors: int
    step: int


Post = Beginning | StepReport
"""What drivers show on a board, in the order in which it happened."""

T = TypeVar("T")


class Board:
    """An actor that the command line owns and the driving workers post to."""

    def __init__(self) -> None:
        self._posts: list[Post] = []
        self._stopping = False
        self._granted = 0
        self._plan: Plan | None = None
        self._failure: RaymoeError | None = None

    @ray.method
    def begin(self, plan: Plan, step: int) -> None:
        """Show the plan that all drivers are to follow from a step on."""
        self._plan, self._granted = plan, step
        self._posts.append(Beginning(plan.replicas * plan.ranks, step))

    @ray.method
    def plan(self) -> Plan | None:
        """Return the plan that is followed."""
        return self._plan

    @ray.method
    def post(self, report: StepReport) -> None:
        """Take a report."""
        self._posts.append(report)

    @ray.method
    def done(self, step: int) -> bool:
        """Take note that a driver has done ``step`` steps; return whether it should go on."""
        if not self._stopping:
            self._granted = max(self._granted, step + 1)
        return step < self._granted

    @ray.method
    def drain(self) -> list[Post]:
        """Return what was shown since the last call."""
        posts, self._posts = self._posts, []
        return posts

    @ray.method
    def stop(self) -> None:
        """Ask the run to end."""
        self._stopping = True

    @ray.method
    def fail(self, error: RaymoeError) -> None:
        """Take note of an error that no restart mends; the run ends with it."""
        self._failure, self._stopping = self._failure or error, True

    @ray.method
    def failure(self) -> RaymoeError | None:
        """Return the error that the run ends with."""
        return self._failure

    @ray.method
    def wanted(self) -> bool:
        """Tell whether the run should go on."""
        return not self._stopping


@contextmanager
def open_board(run: str) -> Iterator[ActorHandle[Board]]:
    """Give the board of a run: on this node, found by name, gone with the block or its process."""
    here = ray.get_runtime_context().get_node_id()
    options = {
        "name": f"{run}/board",
        "num_cpus": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False),
    }
    try:
        handle: Any = ray.remote(Board).options(**options).remote()
    except ActorAlreadyExistsError:
        raise name_taken(run) from None
    try:
        yield handle
    finally:
        ray.kill(handle)


def stop(run: str) -> bool:
    """Ask a run to end, wherever its command line is; tell whether there is one to hear it."""
    try:
        asked: Any = ray.get_actor(f"{run}/board").stop.remote()
        ray.get(asked, timeout=WAIT_SECONDS)
    except (ValueError, RayActorError, GetTimeoutError):
        return False
    return True


def begin(board: ActorHandle[Board], plan: Plan, step: int) -> None:
    """Show the plan that all drivers follow; a board that is gone is noticed at the next step."""
    _answer(board.begin.remote(plan, step), late=None, gone=None)


def plan_on(board: ActorHandle[Board]) -> Plan | None:
    """Return the plan that all drivers follow; None if there is none yet, or no board."""
    return _answer(board.plan.remote(), late=None, gone=None)


def post(board: ActorHandle[Board], report: StepReport) -> None:
    """Show a step on the board."""
    _answer(board.post.remote(report), late=None, gone=None)


def go_on(board: ActorHandle[Board], step: int) -> bool:
    """Say how many steps are done; return whether to do another: not for a board that is gone."""
    return _answer(board.done.remote(step), late=True, gone=False)


def fail(board: ActorHandle[Board], error: RaymoeError) -> None:
    """Let the run end with an error that no restart mends."""
    _answer(board.fail.remote(error), late=None, gone=None)


def failure(board: ActorHandle[Board]) -> RaymoeError | None:
    """Return the error that the run ends with; None if there is none, or no board."""
    return _answer(board.failure.remote(), late=None, gone=None)


def still_wanted(board: ActorHandle[Board]) -> bool:
    """Tell whether the run should go on: not if its board is gone."""
    return _answer(board.wanted.remote(), late=True, gone=False)


def _answer(answer: "ObjectRef[T]", late: T, gone: T) -> T:
    """Return a board's answer; ``late`` if the board is out of reach, ``gone`` if it is dead.

    A board dies with the command line that owns it, and then its run has ended.
    """
    try:
        return ray.get(answer, timeout=WAIT_SECONDS)
    except (ActorUnavailableError, GetTimeoutError):
        return late
    except RayActorError:
        return gone
