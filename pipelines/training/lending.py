"""The driver lends the ranks of one replica to a server, in turns between steps.

Nobody but the driver ever commands a rank, so batches and steps cannot get in each other's way, and
a server that dies or hangs leaves nothing to mend. A server that has nothing to answer costs
nothing: it leaves word on the board, which the driver reads anyway.
"""

import logging
import time
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from typing import Any

from actors.commands import Batch
from actors.engine.lending import Lent
from actors.engine.passes import Flight
from actors.engine.training import TrainingEngine
from moe.checkpoint.training import SaveContext
from moe.errors import (
    CheckpointError,
    ClusterError,
    DeadlineExceeded,
    RankLost,
    RaymoeError,
    RequestError,
)
from pipelines.serving.living.reach import Asking
from pipelines.serving.living.terms import Standing, Welcome
from pipelines.training.allowance import Allowance

REPLICA = 0
"""The replica that answers; it is there in every plan."""

PATIENCE_SECONDS = 0.05
"""The ranks wait so long in a turn for the server's next batch."""

GONE_SECONDS = 2.0
"""A desk only keeps what it is given; one that does not answer for so long is gone."""

REPLACED_SECONDS = 0.5
"""Where another server asks, the one before may have ended just now; its end is known so soon."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Tenant:
    """The server that was let in; it ``asks`` where it may have a batch."""

    asking: Asking
    life: "Future[object]"
    allowance: Allowance
    asks: bool = False

    @property
    def gone(self) -> bool:
        return self.life.done()


class Lending:
    """Lets one server at a time use the ranks, for its share of the time."""

    def __init__(self, context: SaveContext) -> None:
        self._context = context
        self._driver = uuid.uuid4().hex
        self._opened = 0
        self._tenant: _Tenant | None = None
        self._lent: Lent | None = None
        self._under: tuple[TrainingEngine, int] | None = None
        self._refusal = ""
        self._since = time.monotonic()

    def between(self, engine: TrainingEngine, step: int, asking: Sequence[Asking]) -> None:
        """Between two steps, after ``step`` of them: let servers in, and have batches run.

        ``asking`` are the servers that have left word since the last time. RankLost where the ranks
        must recover.
        """
        self._look_after_tenant(engine, step)
        for each in asking:
            self._receive(each, engine, step)
        tenant = self._tenant
        if tenant is not None and tenant.asks and tenant.allowance.seconds > 0:
            self._turn(tenant, step)
        self._since = time.monotonic()

    def _look_after_tenant(self, engine: TrainingEngine, step: int) -> None:
        """Credit the time of training; where ranks have met anew, they make ready again instead."""
        tenant = self._tenant
        if tenant is None:
            return
        if tenant.gone:
            self._leave()
        elif self._under == (engine, engine.epoch):
            tenant.allowance.trained(time.monotonic() - self._since)
        else:
            self._open(tenant, engine, step)

    def _receive(self, asking: Asking, engine: TrainingEngine, step: int) -> None:
        tenant = self._tenant
        if tenant is not None and tenant.asking.name != asking.name:
            wait([tenant.life], REPLACED_SECONDS)
            if not tenant.gone:
                asking.desk.tell("refuse", "the run answers through another server already")
                return
            self._leave()
        if self._tenant is not None:
            self._tenant.asks = True
        elif self._refusal:
            asking.desk.tell("refuse", self._refusal)
        else:
            life = asking.desk.tell("stay")
            self._tenant = _Tenant(asking, life, Allowance(asking.conditions.share))
            self._open(self._tenant, engine, step)

    def _open(self, tenant: _Tenant, engine: TrainingEngine, step: int) -> None:
        """Have the ranks make ready, and tell the server who answers; or say why they cannot."""
        lent = engine.lent(REPLICA)
        try:
            lent.open(tenant.asking.conditions.how)
        except (RankLost, DeadlineExceeded):
            raise
        except RaymoeError as error:
            tenant.asking.desk.tell("refuse", str(error))
            self._tenant = self._lent = None
            return
        self._lent, self._opened = lent, self._opened + 1
        self._under = engine, engine.epoch
        welcome = Welcome(self._standing(lent, step), self._context.config, self._context.tokenizer)
        tenant.asking.desk.tell("welcome", welcome)
        logger.info("replica %d answers requests after step %d", REPLICA, step)

    def _leave(self) -> None:
        """Forget a server that is gone; the ranks give back what they took for it."""
        if self._lent is not None:
            self._lent.close()
        self._tenant = self._lent = None

    def _turn(self, tenant: _Tenant, step: int) -> None:
        lent = self._lent
        assert lent is not None
        began = time.monotonic()
        turn = _Turn(tenant, lent, self._standing(lent, step), began + tenant.allowance.seconds)
        try:
            tenant.asks = turn.run()
        except (RankLost, DeadlineExceeded):
            raise
        except RaymoeError as error:
            # What a server asked for must not end a run. The ranks are asked no more.
            self._refusal = f"an answer cost the run its ranks: {error}"
            tenant.asking.desk.tell("refuse", self._refusal)
            self._tenant = self._lent = None
            raise RankLost(self._refusal) from error
        finally:
            tenant.allowance.answered(time.monotonic() - began)

    def _standing(self, lent: Lent, step: int) -> Standing:
        return Standing(f"{self._driver}-{self._opened}", lent.replica, lent.stages, step)


class _Turn:
    """The batches between two steps: the next is taken while the last runs.

    However short the time is, a batch is run; where every step has keys and values computed again,
    batches are run until a token is drawn: else sequences would never get on.
    """

    def __init__(self, tenant: _Tenant, lent: Lent, standing: Standing, end: float) -> None:
        self._desk = tenant.asking.desk
        self._lent = lent
        self._standing = standing
        self._end = end
        self._flights: deque[Flight] = deque()
        self._coming: Future[Batch | None] | None = None
        self._landed = time.monotonic()

        self._whole = tenant.asking.conditions.on_new_weights == "recompute"
        self._more, self._got_on, self._begun = True, False, 0

    def run(self) -> bool:
        """Run batches until the time is over or none comes; return whether more may come."""
        while self._takes() or self._flights:
            self._wait()
            if self._coming is not None and self._coming.done():
                self._begin(self._coming)
            elif self._flights:
                self._finish(self._flights.popleft())
            else:
                self._more, self._coming = False, None
                logger.warning("the desk of a server did not answer for %g s", GONE_SECONDS)
        self._desk.tell("over", self._begun)
        return self._more

    def _takes(self) -> bool:
        """Ask for the next batch, if there is time for it; tell whether one may come."""
        left = self._end - time.monotonic() if self._got_on else PATIENCE_SECONDS
        if self._coming is None and self._more and left > 0:
            self._coming = self._desk.tell("take", self._standing, min(left, PATIENCE_SECONDS))
        return self._coming is not None

    def _wait(self) -> None:
        """Wait until a batch comes or the oldest is done; no longer than a desk may take."""
        deadline = time.monotonic() + GONE_SECONDS
        while awaited := self._awaited():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            wait(awaited, left, FIRST_COMPLETED)

    def _awaited(self) -> list["Future[Any]"]:
        """Return what is still to come; nothing where a batch has come or is done."""
        coming = [] if self._coming is None else [self._coming]
        if any(each.done() for each in coming) or (self._flights and self._flights[0].over):
            return []
        answers = self._flights[0].answers.values() if self._flights else ()
        return [*coming, *(each for each in answers if not each.done())]

    def _begin(self, coming: "Future[Batch | None]") -> None:
        self._coming = None
        try:
            batch = coming.result()
        except ClusterError:
            batch = None
        if batch is None:
            self._more = False
            return
        self._begun += 1
        try:
            self._flights.append(self._lent.begin(replace(batch, step=self._standing.step)))
        except RequestError as error:
            self._desk.tell("fail", batch.number, error)

    def _finish(self, flight: Flight) -> None:
        began = max(flight.begun, self._landed)
        try:
            output = self._lent.finish(flight)
        except (RequestError, CheckpointError) as error:
            self._desk.tell("fail", flight.batch.number, error)
        else:
            self._landed = time.monotonic()
            self._got_on |= bool(output.drawn) or not self._whole
            self._desk.tell("answer", replace(output, seconds=self._landed - began))
