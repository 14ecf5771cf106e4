"""Where a run meets the person who started it: reports go up, the wish to stop comes down."""

from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from actors.commands import StepReport


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


def open_board() -> ActorHandle[Board]:
    """Start a board that lives as long as the calling process."""
    handle: Any = ray.remote(Board).options(num_cpus=0).remote()
    board: ActorHandle[Board] = handle
    return board


def still_wanted(board: ActorHandle[Board]) -> bool:
    """Tell whether the run should go on; a board that died with its owner wants nothing more."""
    try:
        return bool(ray.get(board.wanted.remote(), timeout=30.0))
    except RayActorError:
        return False
