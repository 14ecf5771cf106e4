"""Engines over ranks that Ray hosts: started on a cluster, or found on it by the run's name."""

from actors.crew.launch import find, launch
from actors.deadlines import Deadlines
from actors.engine.serving import ServingEngine
from actors.engine.training import TrainingEngine
from actors.state.sources import Source
from actors.step.replicas import check_step
from moe.config.run import RunConfig
from moe.planning.plan.plan import Plan
from moe.storage import Location


def train(run: RunConfig, plan: Plan, source: Source, sequence_length: int) -> TrainingEngine:
    """Launch detached actors and have them read their shares; they outlive this process."""
    check_step(plan, run.train.schedule, run.train.micro_batches)
    crew = launch(run.name, plan, detached=True, seconds=run.cluster.launch_seconds)
    return TrainingEngine.train(crew, run, plan, source, sequence_length)


def attach(run: RunConfig, plan: Plan) -> TrainingEngine | None:
    """Take over the living actors of a run; None unless all live and can go on together."""
    crew = find(run.name, plan.seats)
    return None if crew is None else TrainingEngine.attach(crew, run, plan)


def serve(name: str, model: Location, plan: Plan, deadlines: Deadlines) -> ServingEngine:
    """Launch actors that only generate; they end with the calling process."""
    crew = launch(name, plan, detached=False, seconds=deadlines.launch)
    return ServingEngine.serve(crew, name, plan, model, deadlines)
