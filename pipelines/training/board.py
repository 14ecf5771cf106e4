"""The board of a run: the driver posts reports to the command line, which can ask it to stop.

It also records the metrics of the run: drivers come and go, the board stays.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
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
from cluster.metrics import Recorder, Sample
from moe.errors import ClusterError, ConfigError, DeadlineExceeded
from moe.planning.plan.plan import Plan
from pipelines.serving.living.reach import Asking, board_name
from pipelines.training.health import Health
from pipelines.training.mended import Lost, Mended, Stays, Waiting
from pipelines.training.rescaled import NotRescaled, Rescaled
from pipelines.training.wishes import Wish

WAIT_SECONDS = 30.0
"""A board only answers calls; a board that does not answer for this long is unreachable."""


class Beginning(NamedTuple):
    """All actors of the run are ready: their number, and the number of steps already done."""

    actors: int
    step: int


class Orders(NamedTuple):
    """What the driver is told between two steps: whether to go on, a wish for another plan, and
    the servers that have left word since the last time.
    """

    go_on: bool
    wish: Wish | None = None
    asking: tuple[Asking, ...] = ()


Told = Lost | Waiting | Mended | Stays | Rescaled | NotRescaled | Health
"""What is a line on the terminal."""
News = StepReport | Told
Post = Beginning | News
"""What the driver posts to a board, in order of time."""

LOOK_SECONDS = 0.2

T = TypeVar("T")


class Board:
    """An actor that the command line owns; the driver posts to it."""

    def __init__(self, run: str) -> None:
        self._metrics = Recorder(run)
        self._posts: list[Post] = []
        self._news = asyncio.Event()
        self._stopping = False
        self._plan: Plan | None = None
        self._aim: Plan | None = None
        self._wish: Wish | None = None
        self._met = asyncio.Event()
        self._answer: Rescaled | NotRescaled | None = None
        self._asking: dict[str, Asking] = {}

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
    def post(self, news: News) -> None:
        """Add the report of a step, or what else is told of the run."""
        self._posts.append(news)
        self._news.set()

    @ray.method
    def measure(self, samples: Sequence[Sample]) -> None:
        """Record metrics of the run."""
        self._metrics.record_all(samples)

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
    def orders(self) -> Orders:
        """Return what the driver is to do next."""
        asking, self._asking = tuple(self._asking.values()), {}
        return Orders(not self._stopping, self._wish, asking)

    @ray.method
    def ask(self, asking: Asking) -> None:
        """Leave word that a server has something to answer."""
        self._asking[asking.name] = asking

    @ray.method
    def follow(self, plan: Plan) -> None:
        """Note the plan that holds from now on; ``begin`` tells of it when training goes on."""
        self._plan = plan

    @ray.method
    def aim(self, plan: Plan) -> None:
        """Note the plan that the operator wished for: the run starts anew, and grows, to it."""
        self._aim = plan

    @ray.method
    def aimed(self) -> Plan | None:
        """Return the plan that the operator wished for last and got; None without any."""
        return self._aim

    @ray.method
    def wish(self, wish: Wish) -> bool:
        """Leave a wish for another plan; False where one is being carried out already."""
        if self._wish is not None:
            return False
        self._wish, self._answer = wish, None
        self._met.clear()
        return True

    @ray.method
    def answer(self, answer: Rescaled | NotRescaled) -> None:
        """Say what became of the wish; the next may be left then."""
        self._wish, self._answer = None, answer
        self._met.set()

    @ray.method
    async def answered(self, seconds: float) -> Rescaled | NotRescaled | None:
        """Return what became of the last wish; None where that is not known in time."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._met.wait(), seconds)
        return self._answer


@contextmanager
def open_board(run: str, patience: float = 0.0) -> Iterator[ActorHandle[Board]]:
    """Open the board of a run on this node, under the run's name; it ends with the block or
    process.

    Only one command line has the board, so only one drives the run. ``patience``: seconds to wait
    for the board of one that was killed to end, or of one whose node is lost.
    """
    here = ray.get_runtime_context().get_node_id()
    options = {
        "name": board_name(run),
        "num_cpus": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False),
    }
    deadline, handle = time.monotonic() + patience, _new(run, options)
    while handle is None:
        if time.monotonic() > deadline:
            raise name_taken(run)
        time.sleep(LOOK_SECONDS)
        handle = _new(run, options)
    try:
        yield handle
    finally:
        ray.kill(handle)


def _new(run: str, options: dict[str, Any]) -> Any:
    """Return a new board; None where another has its name."""
    try:
        return ray.remote(Board).options(**options).remote(run)
    except ActorAlreadyExistsError:
        return None


def stop(run: str) -> bool:
    """Ask a run to stop, wherever its command line is; return whether such a run exists."""
    try:
        asked: Any = ray.get_actor(board_name(run)).stop.remote()
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


def post(board: ActorHandle[Board], news: News) -> None:
    """Post the report of a step, or what else is told of the run."""
    _answer(board.post.remote(news), late=None, gone=None)


def measure(board: ActorHandle[Board], samples: Sequence[Sample]) -> None:
    """Have metrics of the run recorded; do not wait, and do without where the board is dead."""
    board.measure.remote(samples)


def still_wanted(board: ActorHandle[Board]) -> bool:
    """Return whether the run should continue; False if its board is dead."""
    return orders(board).go_on


def orders(board: ActorHandle[Board]) -> Orders:
    """Return what to do next: to end if the board is dead, to go on if it is out of reach."""
    return _answer(board.orders.remote(), late=Orders(True), gone=Orders(False))


def follow(board: ActorHandle[Board], plan: Plan) -> None:
    """Note the plan that holds from now on."""
    _answer(board.follow.remote(plan), late=None, gone=None)


def aim(board: ActorHandle[Board], plan: Plan) -> None:
    """Note the plan that the operator wished for, for the driver after this one."""
    _answer(board.aim.remote(plan), late=None, gone=None)


def aimed_on(board: ActorHandle[Board]) -> Plan | None:
    """Return the plan that the operator wished for and got; None without any, or without board."""
    return _answer(board.aimed.remote(), late=None, gone=None)


def answer(board: ActorHandle[Board], told: Rescaled | NotRescaled) -> None:
    """Say what became of a wish."""
    _answer(board.answer.remote(told), late=None, gone=None)


def plan_of(run: str) -> Plan:
    """Return the plan of a run; ConfigError where there is no such run, ClusterError where it has
    none yet.
    """
    try:
        found: Plan | None = ray.get(_board_of(run).plan.remote(), timeout=WAIT_SECONDS)
    except (RayActorError, GetTimeoutError) as error:
        raise ClusterError(f"{run} ended, or its command line is out of reach: {error}") from error
    if found is None:
        raise ClusterError(f"{run} has no plan yet: its ranks start; ask again when it trains")
    return found


def _board_of(run: str) -> Any:
    try:
        return ray.get_actor(board_name(run))
    except ValueError:
        raise ConfigError(
            f"no run named {run} is on this cluster; give the name of its run file, and its "
            "cluster by --address"
        ) from None


def ask(run: str, wish: Wish, seconds: float) -> Rescaled | NotRescaled:
    """Leave a wish with a run, and return what became of it.

    ConfigError where there is no such run, ClusterError where it carries out another wish,
    DeadlineExceeded where nothing is known after ``seconds``.
    """
    board = _board_of(run)
    try:
        left = ray.get(board.wish.remote(wish), timeout=WAIT_SECONDS)
        if not left:
            raise ClusterError(
                f"{run} carries out another change of plan; wait until it is done, and ask again"
            )
        told: Rescaled | NotRescaled | None = ray.get(board.answered.remote(seconds))
    except (RayActorError, GetTimeoutError) as error:
        raise ClusterError(f"{run} ended, or its command line is out of reach: {error}") from error
    if told is None:
        raise DeadlineExceeded(
            f"{run} has not changed its plan after {seconds:g} s; it will, unless it ends before. "
            "Look at its lines, or give a longer --seconds"
        )
    return told


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
