"""Where a run meets the person who started it: reports go up, the wish to stop comes down."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.commands import StepReport

WAIT_SECONDS = 30.0
"""A board does nothing but answer; one that is silent this long is out of reach."""


class Board:
    """An actor that the command line owns and the driving worker posts to."""

    def __init__(self) -> None:
        self._posts: list[StepReport] = []
        self._stopping = False

    @ray.method
    def post(self, report: StepReport) -> bool:
        """Take a report; return whether the run should go on."""
        self._posts.append(report)
        return not self._stopping

    @ray.method
    def drain(self) -> list[StepReport]:
        """Return the reports since the last call."""
        posts, self._posts = self._posts, []
        return posts

    @ray.method
    def stop(self) -> None:
        """Ask the run to end."""
        self._stopping = True

    @ray.method
    def wanted(self) -> bool:
        """Tell whether the run should go on."""
        return not self._stopping


@contextmanager
def open_board(run: str) -> Iterator[ActorHandle[Board]]:
    """Give the board of a run: on this node, found by name, gone with the block or its process."""
    here = ray.get_runtime_context().get_node_id()
    handle: Any = (
        ray.remote(Board)
        .options(
            name=f"{run}/board",
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        .remote()
    )
    try:
        yield handle
    finally:
        ray.kill(handle)


def stop(run: str) -> None:
    """Ask a run to end, wherever its command line is; nothing happens if that is gone."""
    try:
        asked: Any = ray.get_actor(f"{run}/board").stop.remote()
        ray.get(asked, timeout=WAIT_SECONDS)
    except (ValueError, RayActorError, GetTimeoutError):
        return


def post(board: ActorHandle[Board], report: StepReport) -> bool:
    """Show a step on the board; return whether the run should go on."""
    return _wanted(board.post.remote(report))


def still_wanted(board: ActorHandle[Board]) -> bool:
    """Tell whether the run should go on."""
    return _wanted(board.wanted.remote())


def _wanted(answer: Any) -> bool:
    """Wait for a board's answer; one that died with its owner wants nothing more."""
    try:
        return bool(ray.get(answer, timeout=WAIT_SECONDS))
    except (ActorUnavailableError, GetTimeoutError):
        return True
    except RayActorError:
        return False
