"""The actors of a run for its driver: those that live, else new ones from the newest checkpoint."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace

from actors.crew.nodes.bundles import gangs
from actors.crew.patience import AT_ONCE, Patience
from actors.crew.wanting import await_news
from actors.engine import over_ray
from actors.engine.healing import Making, Surroundings
from actors.engine.losses import Losses
from actors.engine.training import TrainingEngine
from actors.state.sources import Blank, Source
from actors.state.tuned import source_of
from moe.checkpoint.manifest import checkpoints
from moe.errors import DeadlineExceeded, LaunchError, PlanError, RankLost, RaymoeError
from moe.planning.plan.plan import Plan
from moe.planning.policy.decision import Restore
from pipelines.training.board import still_wanted
from pipelines.training.coming import waiting_text
from pipelines.training.run_plan import plan_with_room
from pipelines.training.work import Work

AGAIN_SECONDS = 5.0
"""Until the plan of a run is tried again, where a smaller one had no room either."""

logger = logging.getLogger(__name__)


class Launching:
    """Finds the actors of a run, or starts them."""

    def __init__(self, work: Work, sequence_length: int, waits: Callable[[str], object]) -> None:
        self._work = work
        self._waits = waits
        self._run = work.run
        self._length = sequence_length
        blank = Blank.of(self._source())
        self._making = Making(work.run, blank, sequence_length, work.faults)
        self._wished: Plan | None = None

    def wish(self, plan: Plan) -> None:
        """Start under this plan from now on, as the operator wished."""
        self._wished = plan

    def attached(self, plan: Plan) -> TrainingEngine | None:
        """Return an engine over the actors that live; None where none can be taken over.

        They may have to recover first.
        """
        try:
            return over_ray.attach(plan, self._making)
        except (RankLost, DeadlineExceeded) as error:
            logger.warning("the actors of %s could not be taken over: %s", self._run.name, error)
            return None

    def first(self, losses: Losses, instead: Plan | None = None) -> TrainingEngine:
        """Start all actors as ``launched``, as soon as the cluster has room for them."""
        seconds = self._work.wait_seconds

        def tell(reason: str) -> None:
            self._waits(waiting_text(seconds, reason))

        return self.launched(losses, instead, Patience(seconds, tell, self._is_wanted))

    def launched(
        self, losses: Losses, instead: Plan | None = None, patience: Patience = AT_ONCE
    ) -> TrainingEngine:
        """Start all actors from the newest checkpoint, or from the model.

        ``instead`` is a plan to start them under where the run's own has no room.
        """
        work, wanted = self._work, self._wished or self._work.plan
        config, run = work.context.config, self._run
        plan = instead or plan_with_room(run, config, self._length, wanted, work.found)
        return over_ray.begin(plan, self._source(), self._making, losses, patience)

    def anew(
        self, ended: TrainingEngine, losses: Losses, around: Callable[[], Surroundings]
    ) -> TrainingEngine:
        """Start all actors in the place of those that have ``ended``, as soon as a plan has room.

        Under the plan of the run, or a smaller one that the run file prefers to waiting.
        """
        instead: Plan | None = None
        while True:
            try:
                return self.launched(losses, instead)
            except (LaunchError, PlanError) as error:
                logger.warning("the actors could not start anew: %s", error)
                instead = _instead(ended, replace(around(), room=False), error, instead)
            if instead is None:
                await_news(self._run.name, gangs(ended.plan), math.inf, self._is_wanted)

    def _is_wanted(self) -> bool:
        return still_wanted(self._work.board)

    def _source(self) -> Source:
        """The newest checkpoint, or the model that the run begins with."""
        saved = checkpoints(self._run.checkpoint.location)
        return source_of(self._run, saved[-1].absolute() if saved else None)


def _instead(
    ended: TrainingEngine, around: Surroundings, error: RaymoeError, tried: Plan | None
) -> Plan | None:
    """Return the plan to try after one had no room, None for that of the run.

    Where there is nothing to do but wait, or what was ``tried`` was the smaller plan, it waits
    first. RankLost where nobody wants the run any more.
    """
    found = ended.recover(around)
    if not around.wanted():
        raise RankLost(str(error)) from error
    if not isinstance(found, Restore):
        raise error
    if tried is None:
        return None if found.shape == ended.plan else found.shape
    time.sleep(AGAIN_SECONDS)
    return None
