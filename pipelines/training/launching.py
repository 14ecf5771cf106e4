"""The actors of a run for its driver: those that live, else new ones from the newest checkpoint."""

import logging

from actors.crew.launch import room_for
from actors.engine import over_ray
from actors.engine.healing import Making
from actors.engine.losses import Losses
from actors.engine.training import TrainingEngine
from actors.state.sources import Blank, CheckpointSource, ModelSource, Source
from moe.checkpoint.manifest import checkpoints
from moe.errors import (
    DeadlineExceeded,
    RankLost,
)
from moe.planning.plan.plan import Plan
from pipelines.training.run_plan import plan_with_room
from pipelines.training.work import Work

logger = logging.getLogger(__name__)


class Launching:
    """Finds the actors of a run, or starts them."""

    def __init__(self, work: Work, sequence_length: int) -> None:
        self._work = work
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

    def launched(self, losses: Losses, last: Plan | None = None) -> TrainingEngine:
        """Start all actors from the newest checkpoint, or from the model.

        A run that went on under a smaller plan, the ``last``, keeps it as long as there is no room
        for its own.
        """
        work, wanted = self._work, self._wished or self._work.plan
        config = work.context.config
        plan = plan_with_room(self._run, config, self._length, wanted, work.found)
        if last is not None and last != plan and not room_for(plan):
            plan = last
        return over_ray.begin(plan, self._source(), self._making, losses)

    def _source(self) -> Source:
        """The newest checkpoint, or the model that the run begins with."""
        saved = checkpoints(self._run.checkpoint.location)
        return (
            CheckpointSource(saved[-1].absolute()) if saved else ModelSource(self._run.model.path)
        )
