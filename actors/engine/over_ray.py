"""Engines over ranks that Ray hosts: started on a cluster, or found on it by the run's name."""

from actors.commands import Answering
from actors.crew.launch import find, launch
from actors.crew.patience import AT_ONCE, Patience
from actors.deadlines import Deadlines
from actors.engine.healing import Making
from actors.engine.losses import Losses
from actors.engine.serving import ServingEngine
from actors.engine.training import TrainingEngine
from actors.state.sources import Blank, Source
from actors.step.replicas import check_step
from moe.config.run import RunConfig
from moe.planning.plan.plan import Plan
from moe.storage import Location

ANSWERING = "serve-"
"""How the names of actors begin that only generate."""


def train(run: RunConfig, plan: Plan, source: Source, sequence_length: int) -> TrainingEngine:
    """Launch detached actors and have them read their shares; they outlive this process."""
    return begin(plan, source, Making(run, Blank.of(source), sequence_length))


def begin(
    plan: Plan,
    source: Source,
    making: Making,
    losses: Losses | None = None,
    patience: Patience = AT_ONCE,
) -> TrainingEngine:
    """Launch detached actors of a run that may have counted ``losses`` before."""
    run = making.run
    check_step(plan, run.train.schedule, run.train.micro_batches)
    crew = launch(run.name, plan, True, run.cluster.launch_seconds, patience)
    return TrainingEngine.begin(crew, plan, source, making, losses)


def attach(plan: Plan, making: Making) -> TrainingEngine | None:
    """Take over the actors of a run; None where none live, or they follow another plan."""
    crew = find(making.run.name, plan)
    if crew is None:
        return None
    crew.end_others()
    return TrainingEngine.attach(crew, plan, making)


def serve(
    name: str,
    model: Location,
    plan: Plan,
    deadlines: Deadlines,
    how: Answering,
    patience: Patience = AT_ONCE,
) -> ServingEngine:
    """Launch actors that only generate; they end with the calling process.

    They stay apart from those of other such engines, so that a lost node takes few with it.
    """
    run = f"{ANSWERING}{name}"
    crew = launch(run, plan, False, deadlines.launch, patience, apart_from=ANSWERING)
    return ServingEngine.serve(crew, run, plan, model, deadlines, how)
