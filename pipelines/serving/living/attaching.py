"""A server finds the run that is to answer, and is let in."""

import time
import uuid

from moe.errors import LaunchError
from pipelines.serving.living.engine import LivingEngine
from pipelines.serving.living.reach import Asking, DeskActor, RunBoard
from pipelines.serving.living.terms import Conditions, Refused, Welcome

LOOK_SECONDS = 1.0


def attach(run: str, conditions: Conditions, seconds: float) -> LivingEngine:
    """Return an engine over the ranks of a run, which lets a server in between two steps.

    RankLost where there is no such run; LaunchError where it refuses, or does not answer within
    ``seconds``.
    """
    board, desk = RunBoard(run), DeskActor.start(conditions)
    asking = Asking(uuid.uuid4().hex, desk, conditions)
    try:
        welcome = _welcomed(board, asking, seconds)
    except BaseException:
        desk.end()
        raise
    return LivingEngine(board, asking, welcome, desk.end)


def _welcomed(board: RunBoard, asking: Asking, seconds: float) -> Welcome:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        board.ask(asking)
        found: Welcome | Refused | None = asking.desk.tell("welcomed", LOOK_SECONDS).result()
        if isinstance(found, Refused):
            raise LaunchError(f"the run {board.run} does not answer: {found.reason}")
        if found is not None:
            return found
    raise LaunchError(
        f"the run {board.run} has let nobody in for {seconds:g} s: it starts, waits for nodes, or "
        "its steps take longer; look at its lines, or give more launch_seconds in a Serve config"
    )
