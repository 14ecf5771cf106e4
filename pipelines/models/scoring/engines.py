"""Engines for whoever measures a model: in this process, or on the actors of a plan."""

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.commands import Answering
from actors.crew.crew import Crew
from actors.deadlines import Deadlines
from actors.engine.serving import ServingEngine
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

    ``tell`` is called with a line about what takes long. ``crew`` are processes for the ranks that
    are there already, in place of Ray's.
    """

    plan: Plan | None = None
    address: str = "local"
    tell: Callable[[str], object] = _LOG.info
    crew: Crew | None = None

    @property
    def stages(self) -> int:
        """Number of stages, each of which may have a batch of its own."""
        return 1 if self.plan is None else len(self.plan.stages)

    @property
    def depth(self) -> int:
        """Batches under way: one for each stage, and one that waits for the first."""
        return self.stages + 1


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
    with ExitStack() as scope:
        engine = _on_ranks(model, where, where.plan, how, scope)
        try:
            yield engine
        finally:
            engine.shutdown()


def _on_ranks(
    model: Path, where: Where, plan: Plan, how: Answering, scope: ExitStack
) -> ServingEngine:
    """Start the ranks of a plan: in the crew that is there, or on Ray, until the scope ends."""
    name, location = f"evaluate-{uuid.uuid4().hex[:12]}", model.absolute()
    if where.crew is not None:
        return ServingEngine.serve(where.crew, name, plan, location, Deadlines(), how)
    from actors.crew.patience import Patience
    from actors.engine import over_ray
    from cluster.session import intent, session

    where.tell(intent(where.address))
    scope.enter_context(session(where.address))
    where.tell(f"waiting for the {plan.ranks} actors of the plan")
    patience = Patience(tell=where.tell)
    return over_ray.serve(name, location, plan, Deadlines(), how, patience)
