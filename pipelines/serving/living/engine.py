"""The ranks of a training run as a server's engine: batches go through a desk, between steps."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from actors.commands import Batch, BatchOutput
from actors.engine.serving import Mended
from moe.errors import RankLost, RaymoeError
from pipelines.serving.generation.engine import Anew, NotYet
from pipelines.serving.living.reach import Asking
from pipelines.serving.living.terms import (
    Answered,
    Failed,
    Fate,
    Moved,
    Posted,
    Refused,
    Standing,
    Welcome,
)

WAIT_SECONDS = 0.2
"""The scheduler is not held up longer than this; it has readers who leave, and who come."""


class Board(Protocol):
    """The run as a server reaches it."""

    def ask(self, asking: Asking) -> None:
        """Leave word that a server has something to answer; RankLost where there is no run."""

    @property
    def there(self) -> bool:
        """Whether the run goes on."""


class LivingEngine:
    """Answers with a run's weights of now. Every batch is of one step, and says of which."""

    def __init__(
        self, board: Board, asking: Asking, welcome: Welcome, end: Callable[[], None] = lambda: None
    ) -> None:
        self.welcome = welcome
        self._board = board
        self._asking = asking
        self._end = end
        self._standing = welcome.standing
        self._after = 0
        self._under_way = 0
        self._new = True
        self._lost: RankLost | None = None

    def weights(self) -> int:
        """Return the step of the weights that answer next; wait a little for a turn."""
        if self._new:
            self._new = False
            raise Anew(self._standing.stages)
        if not self._under_way:
            self._meet()
        return self._standing.step

    def begin(self, batch: Batch) -> "Future[Fate]":
        """Leave a batch at the desk."""
        flight = self._asking.desk.tell("run", Posted(batch, self._standing, self._after))
        self._after, self._under_way = batch.number, self._under_way + 1
        return flight

    def finish(self, flight: "Future[Fate]") -> BatchOutput:
        """Return what the oldest batch came to; NotYet while the run does its step."""
        fate = self._result(flight)
        self._under_way -= 1
        if isinstance(fate, Moved):
            self._stand(fate.standing)
        elif isinstance(fate, Failed):
            raise fate.error
        elif isinstance(fate, Refused):
            raise self._loss(fate.reason)
        assert isinstance(fate, Answered)
        return fate.output

    def mend(self) -> Mended:
        """Go on after a batch that failed; RankLost where the run answers no more."""
        if self._lost is not None:
            raise self._lost
        self._under_way = 0
        return Mended((), 0.0)

    def healthy(self) -> bool:
        """Tell whether the run goes on and answers."""
        return self._lost is None and self._board.there

    def shutdown(self) -> None:
        """Leave the run."""
        self._end()

    def _meet(self) -> None:
        """Wait a little for a turn, unless one is on, and take note of who answers."""
        found = self._result(self._asking.desk.tell("turn", 0.0))
        if found is None:
            self._ask()
            found = self._result(self._asking.desk.tell("turn", WAIT_SECONDS))
        if found is None:
            raise NotYet
        if isinstance(found, Refused):
            raise self._loss(found.reason)
        self._stand(found)

    def _stand(self, standing: Standing) -> None:
        """Go on with the ranks as they stand; Anew where nothing that they kept is good."""
        before, self._standing = self._standing, standing
        if not standing.keeps(before, self._asking.conditions.on_new_weights):
            self._after = self._under_way = 0
            raise Anew(standing.stages)

    def _result(self, answer: "Future[Any]") -> Any:
        try:
            return answer.result(2 * WAIT_SECONDS)
        except TimeoutError:
            self._ask()
            raise NotYet from None
        except RaymoeError as error:
            raise self._loss(str(error)) from error

    def _ask(self) -> None:
        try:
            self._board.ask(self._asking)
        except RankLost as error:
            raise self._loss(str(error)) from error

    def _loss(self, reason: str) -> RankLost:
        self._lost = RankLost(reason)
        return self._lost
