"""Engines for whoever measures a model: in this process, or on the actors of a plan."""

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.commands import Answering
from actors.step.replicas import check_one_replica
from moe.checkpoint.reader import Checkpoint
from moe.planning.plan.file import load_plan
from moe.planning.plan.plan import Plan
from pipelines.serving.generation.engine import Engine
from pipelines.serving.generation.local import LocalEngine

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Where:
    """Where a model is computed: on the ranks of a plan, on a Ray cluster; None: in this process.

    ``tell`` is called with a line about what takes long.
    """

    plan: Plan | None = None
    address: str = "local"
    tell: Callable[[str], object] = _LOG.info

    @property
    def stages(self) -> int:
        """Number of stages, each of which may have a batch of its own."""
        return 1 if self.plan is None else len(self.plan.stages)


def plan_for(path: Path, model: Path) -> Plan:
    """Read a plan and check that its ranks can answer with a model."""
    plan = load_plan(path)
    plan.check_model(Checkpoint.open(model).config)
    check_one_replica(plan)
    return plan


@contextmanager
def opened(model: Path, where: Where, how: Answering) -> Iterator[Engine[Any]]:
    """Yield an engine; its ranks end with the block."""
    if where.plan is None:
        yield LocalEngine(model, how)
        return
    from actors.crew.patience import Patience
    from actors.deadlines import Deadlines
    from actors.engine import over_ray
    from cluster.session import intent, session

    where.tell(intent(where.address))
    with session(where.address):
        where.tell(f"waiting for {where.plan.ranks} actors")
        patience = Patience(tell=where.tell)
        name = uuid.uuid4().hex[:12]
        engine = over_ray.serve(name, model.absolute(), where.plan, Deadlines(), how, patience)
        try:
            yield engine
        finally:
            engine.shutdown()
