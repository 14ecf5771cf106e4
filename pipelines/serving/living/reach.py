"""How a server and the driver of a run speak to a desk, and a server to the board of a run."""

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from moe.errors import ClusterError, RankLost
from pipelines.serving.living.desk import Desk
from pipelines.serving.living.terms import Conditions


class Reach(Protocol):
    """Something that can be told to do the methods of a desk."""

    def tell(self, method: str, *arguments: Any) -> "Future[Any]":
        """Call a method and return its result to come; ClusterError where the desk is gone."""


class Asking(NamedTuple):
    """A server that wants a run to answer: its desk, the name of that, and its conditions."""

    name: str
    desk: Reach
    conditions: Conditions


@dataclass(frozen=True, slots=True)
class DeskActor:
    """A desk that Ray hosts."""

    handle: ActorHandle[Desk]

    @classmethod
    def start(cls, conditions: Conditions) -> "DeskActor":
        """Start a desk that ends with this process."""
        made: Any = ray.remote(Desk)
        return cls(made.options(num_cpus=0).remote(conditions))

    def tell(self, method: str, *arguments: Any) -> "Future[Any]":
        """Call a method of the actor."""
        answer: Future[Any] = Future()
        call = getattr(self.handle, method).remote(*arguments)
        call.future().add_done_callback(lambda done: _settle(answer, done))
        return answer

    def end(self) -> None:
        """End the actor."""
        ray.kill(self.handle)


def board_name(run: str) -> str:
    """Return the name of the actor through which a run is reached."""
    return f"{run}/board"


class RunBoard:
    """The board of a run by its name, also of one that is stopped and continued."""

    def __init__(self, run: str) -> None:
        self.run = run

    def ask(self, asking: Asking) -> None:
        """Leave word that a server has something to answer; RankLost where there is no such run."""
        board: Any = self._board()
        board.ask.remote(asking)

    @property
    def there(self) -> bool:
        """Whether the run goes on, as far as Ray knows."""
        try:
            self._board()
        except RankLost:
            return False
        return True

    def _board(self) -> ActorHandle[Any]:
        try:
            return ray.get_actor(board_name(self.run))
        except ValueError:
            raise RankLost(
                f"no run named {self.run} is on this cluster: it is over, or has not begun; "
                "requests are answered again once `raymoe train` goes on with it"
            ) from None


def _settle(answer: "Future[Any]", call: "Future[Any]") -> None:
    error = call.exception()
    if error is None:
        answer.set_result(call.result())
    elif isinstance(error, RayError) and not isinstance(error, RayTaskError):
        answer.set_exception(ClusterError(f"the desk of a server is gone: {error}"))
    else:
        answer.set_exception(error)
