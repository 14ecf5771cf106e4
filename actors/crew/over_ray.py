"""A crew of Ray actors: named, found again from any process of the cluster."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from actors.calls import Answer
from actors.crew.ending import remove
from actors.rank.actor import RankActor
from moe.errors import RankDied, RankLost, RaymoeError
from moe.planning.plan.seats import Seat, Seats


class RayCrew:
    """The actors of one run by seat, in the order of their global ranks.

    Each has a call under way that never returns (``RankActor.live``), which fails as soon as Ray
    knows that the actor is dead.
    """

    def __init__(self, run: str, seats: Seats, actors: Sequence[ActorHandle[RankActor]]) -> None:
        self._run = run
        self._seats = seats
        self._actors = dict(zip(seats, actors, strict=True))
        self._lost: dict[Seat, str] = {}
        for seat in seats:
            self.tell(seat, "live").add_done_callback(partial(_note, self._lost, seat))

    @property
    def seats(self) -> Seats:
        """The seats, each with an actor."""
        return self._seats

    def tell(self, seat: Seat, method: str, *arguments: Any) -> Answer:
        """Give one rank a command and return its answer to come."""
        answer = Answer()
        call = getattr(self._actors[seat], method).remote(*arguments)
        call.future().add_done_callback(partial(_settle, answer))
        return answer

    def lost(self) -> Mapping[Seat, str]:
        """Return the ranks whose actors have died, and how."""
        return dict(self._lost)

    def end(self) -> None:
        """End every actor and placement group of the run and wait until they are gone."""
        remove(self._run)


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


def _note(lost: dict[Seat, str], seat: Seat, sentinel: Answer) -> None:
    lost[seat] = str(sentinel.exception())
