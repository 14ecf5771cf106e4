"""The board of a run: the driver posts reports to the command line, which can ask it to stop."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
from actors.crew.ending import name_taken
from moe.planning.plan.plan import Plan
from pipelines.training.mended import Lost, Mended

WAIT_SECONDS = 30.0
"""A board only answers calls; a board that does not answer for this long is unreachable."""


class Beginning(NamedTuple):
    """All actors of the run are ready: their number, and the number of steps already done."""

    actors: int
    step: int


Post = Beginning | StepReport | Lost | Mended
"""What the driver posts to a board, in order of time."""

T = TypeVar("T")


class Board:
    """An actor that the command line owns; the driver posts to it."""

    def __init__(self) -> None:
        self._posts: list[Post] = []
        self._news = asyncio.Event()
        self._stopping = False
        self._plan: Plan | None = None

    @ray.method
    def begin(self, plan: Plan, step: int) -> None:
        """Post the plan that the driver follows from ``step`` on."""
        self._plan = plan
        self._posts.append(Beginning(plan.replicas * plan.ranks, step))
        self._news.set()

    @ray.method
    def plan(self) -> Plan | None:
        """Return the current plan."""
        return self._plan

    @ray.method
    def post(self, news: StepReport | Lost | Mended) -> None:
        """Add the report of a step, or what was lost or mended."""
        self._posts.append(news)
        self._news.set()

    @ray.method
    async def drain(self, seconds: float) -> list[Post]:
        """Return what was posted since the last call; wait at most ``seconds`` for a post.

        A command line that asked every 0.1 s would keep itself and the board busy all the time.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)
        self._news.clear()
        posts, self._posts = self._posts, []
        return posts

    @ray.method
    def wake(self) -> None:
        """End the present wait for posts."""
        self._news.set()

    @ray.method
    def stop(self) -> None:
        """Ask the run to end."""
        self._stopping = True

    @ray.method
    def wanted(self) -> bool:
        """Return whether the run should continue."""
        return not self._stopping


@contextmanager
def open_board(run: str) -> Iterator[ActorHandle[Board]]:
    """Open the board of a run on this node, under the run's name; it ends with the block or
    process.
    """
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
    """Ask a run to stop, wherever its command line is; return whether such a run exists."""
    try:
        asked: Any = ray.get_actor(f"{run}/board").stop.remote()
        ray.get(asked, timeout=WAIT_SECONDS)
    except (ValueError, RayActorError, GetTimeoutError):
        return False
    return True


def begin(board: ActorHandle[Board], plan: Plan, step: int) -> None:
    """Post the plan of the run; a dead board is noticed at the next step."""
    _answer(board.begin.remote(plan, step), late=None, gone=None)


def plan_on(board: ActorHandle[Board]) -> Plan | None:
    """Return the plan of the run; None if there is none yet, or no board."""
    return _answer(board.plan.remote(), late=None, gone=None)


def post(board: ActorHandle[Board], news: StepReport | Lost | Mended) -> None:
    """Post the report of a step, or what was lost or mended."""
    _answer(board.post.remote(news), late=None, gone=None)


def still_wanted(board: ActorHandle[Board]) -> bool:
    """Return whether the run should continue; False if its board is dead."""
    return _answer(board.wanted.remote(), late=True, gone=False)


def _answer(answer: "ObjectRef[T]", late: T, gone: T) -> T:
    """Return a board's answer; ``late`` if the board is unreachable, ``gone`` if it is dead.

    A board dies with the command line that owns it, and then its run has ended.
    """
    try:
        return ray.get(answer, timeout=WAIT_SECONDS)
    except (ActorUnavailableError, GetTimeoutError):
        return late
    except RayActorError:
        return gone
