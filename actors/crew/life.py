"""The life of one rank on Ray: an actor in its reservation, commanded, watched and ended."""

import time
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import replace
from functools import partial

import psutil
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.calls import Answer
from actors.crew.reservation import Reservation
from actors.rank.actor import RankActor, Whereabouts
from moe.errors import LaunchError, RankDied, RankLost, RaymoeError

_POLL_SECONDS = 0.01


class RankLife:
    """An actor from its start to its end.

    It has a call under way that never returns (``RankActor.live``), which fails as soon as Ray
    knows that the actor is dead.
    """

    def __init__(
        self, name: str, actor: ActorHandle[RankActor], place: Reservation, where: Whereabouts
    ) -> None:
        self.name = name
        self.place = replace(place, devices=where.devices)
        self._where = where
        self._actor = actor
        self._life = self.tell("live")

    @property
    def end(self) -> str | None:
        """How the actor ended; None while it lives, as far as this process knows."""
        return str(self._life.exception()) if self._life.done() else None

    def tell(self, method: str, *arguments: object) -> Answer:
        """Give the rank a command and return its answer to come."""
        answer = Answer()
        call = getattr(self._actor, method).remote(*arguments)
        call.future().add_done_callback(partial(_settle, answer))
        return answer

    def kill(self) -> None:
        """End the process with SIGKILL; do not wait until it has ended.

        Ray asks a process first and gives it five seconds, which one that hangs lets pass. So a
        task on its node sends the signal as well.
        """
        hung = self.end is None
        ray.kill(self._actor, no_restart=True)
        if hung:
            here = NodeAffinitySchedulingStrategy(self.place.node, soft=False)
            process = self._where.pid, self._where.started
            sent = _send_kill.options(scheduling_strategy=here).remote(*process)
            sent.future()  # takes its error, if the node is gone, which Ray would print

    def gone(self, deadline: float) -> None:
        """Wait until the actor has ended and its name is free, at most until ``deadline``."""
        wait([self._life], max(deadline - time.monotonic(), 0.0))
        while living(self.name):
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"{self.name} did not end in time to be replaced; look at the Ray dashboard"
                )
            time.sleep(_POLL_SECONDS)


@ray.remote(num_cpus=0, max_retries=0)
def _send_kill(pid: int, started: float) -> None:
    """End a process of this node, unless it has ended and another has its number."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.create_time() == started:
            process.kill()


def living(name: str) -> bool:
    """Tell whether an actor has a name."""
    try:
        ray.get_actor(name)
    except ValueError:
        return False
    return True


def _settle(answer: Answer, call: Answer) -> None:
    """Pass on what a call came to; Ray's own errors become ours."""
    error = call.exception()
    if error is None:
        answer.set_result(call.result())
    else:
        answer.set_exception(_ours(error))


def _ours(error: BaseException) -> RaymoeError:
    """Return the error as it was raised on the rank, without Ray's remote traceback."""
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        return RankDied(str(error))
    cause = error.cause if isinstance(error, RayTaskError) else error
    return cause if isinstance(cause, RaymoeError) else RankLost(f"a rank failed: {cause!r}")
