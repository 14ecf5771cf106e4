"""The Ray Serve application: a replica owns the actors of one plan, or attaches to those of a
training run, and answers over HTTP.

In a Serve config: ``import_path: pipelines.serving.app:build`` with ``args: {model: DIR}``. One
replica answers by itself; where there may be several, a front brings requests to them.
"""

import logging
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import Message

from actors.engine.serving import ServingEngine
from cluster.probe import probe
from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.errors import ConfigError
from moe.planning.plan.plan import Plan
from moe.planning.search.make import make_plan
from pipelines.serving.adapters import Adapters
from pipelines.serving.arguments import RunArguments, ServeArguments, parse_arguments
from pipelines.serving.experts import rebalance
from pipelines.serving.generation.rebalancing import Rebalance
from pipelines.serving.generation.scheduler import Scheduler
from pipelines.serving.http.api import CLOSE_SECONDS, answering_app, create_app
from pipelines.serving.limits import body_bytes
from pipelines.serving.living.model import ModelInUse, of_run
from pipelines.serving.meter import Meter
from pipelines.serving.protocol.replies import Health
from pipelines.serving.refusals import Refusal, Unavailable
from pipelines.serving.replicas.asked import Asked, answers
from pipelines.serving.replicas.figures import Figures
from pipelines.serving.replicas.front import Manner, create_front
from pipelines.serving.replicas.options import front_options, replica_options
from pipelines.serving.replicas.over_serve import ServeReplicas
from pipelines.serving.replicas.scaling import LOAD, WAITING
from pipelines.serving.service import Service
from pipelines.serving.telemetry import Telemetry
from pipelines.serving.text.text import Text

_LOG = logging.getLogger(__name__)


class Server:
    """A replica of the server: tokenizer and scheduler in this process, the ranks in its own
    actors.
    """

    def __init__(self, arguments: ServeArguments | RunArguments) -> None:
        self._of_run = isinstance(arguments, RunArguments)
        source = of_run(arguments) if isinstance(arguments, RunArguments) else _of_model(arguments)
        self._access = arguments.access
        meter = Meter(arguments.served_name)
        config, room = source.config, source.room
        telemetry = Telemetry(arguments.served_name)
        self._scheduler = Scheduler(
            source.build,
            room,
            arguments.limits,
            meter.generation_ended,
            _rebalance(arguments, source, telemetry),
        )
        held = replace(config, max_positions=min(config.max_positions, room.tokens))
        self._service = Service(
            arguments.served_name,
            held,
            source.text,
            self._scheduler,
            arguments.limits,
            telemetry,
        )
        if isinstance(arguments, ServeArguments):
            assert source.plan is not None
            memory = arguments.adapter_memory(config, source.plan)
            adapters = Adapters(arguments.served_name, memory, self._scheduler, telemetry)
            _load(arguments.adapters, adapters)
            self._service.adapters = adapters

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._service, self._access)

    async def check_health(self) -> None:
        """Raise if the engine could not be rebuilt, so that Ray Serve replaces the replica.

        One that answers with the ranks of a run waits for the run instead.
        """
        if not self._of_run and self._scheduler.status.state == "failed":
            raise Unavailable("the engine is down and could not be rebuilt")


class Replica(Server):
    """A replica behind a front; Ray Serve ends it when its requests are answered."""

    def __init__(self, arguments: ServeArguments) -> None:
        super().__init__(arguments)
        self._app = answering_app(self._service)

    async def answer(self, asked: Asked) -> AsyncGenerator[Sequence[Message], None]:
        """Yield what is sent in answer to a request, as it comes."""
        async with aclosing(answers(self._app, asked)) as messages:
            async for each in messages:
                yield each

    def health(self) -> Health:
        """Return the state of the engine and the queue."""
        return self._service.health

    def figures(self) -> Figures:
        """Return what was measured."""
        return Figures(
            serve.get_replica_context().replica_id.unique_id, self._service.figures().decode()
        )

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return by what Ray Serve decides about the number of replicas."""
        status = self._scheduler.status
        return {WAITING: status.waiting_tokens, LOAD: status.load}

    def __del__(self) -> None:
        self._service.close(CLOSE_SECONDS)


class Front:
    """What clients speak to, where there may be several replicas."""

    def __init__(self, manner: Manner, replicas: DeploymentHandle[Any]) -> None:
        self._manner = manner
        self._replicas = ServeReplicas(replicas, manner.refuses)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_front(self._replicas, self._manner)


def build(args: Mapping[str, Any]) -> serve.Application:
    """Return the application for a model; Serve configs and ``run_server`` deploy it."""
    arguments = parse_arguments(args)
    options = replica_options(arguments)
    if isinstance(arguments, RunArguments) or not arguments.several:
        return _deployment(serve.ingress()(Server), options).bind(arguments)
    replicas = _deployment(Replica, options).bind(arguments)
    front = _deployment(serve.ingress()(Front), front_options(arguments))
    return front.bind(_manner(arguments), replicas)


def _manner(arguments: ServeArguments) -> Manner:
    """Return what a front needs to know; while it stays the same, so does the front."""
    return Manner(
        arguments.access,
        body_bytes(Checkpoint.open(arguments.model).config.max_positions),
        arguments.request_seconds,
        arguments.routing == "prefix",
        arguments.refuses_asleep,
    )


def _deployment(kind: type[Any], options: Mapping[str, Any]) -> serve.Deployment:
    made: serve.Deployment = serve.deployment(**options)(kind)
    return made


def _of_model(arguments: ServeArguments) -> ModelInUse:
    """Return the model of a directory, on ranks of its own."""
    config, text = Checkpoint.open(arguments.model).config, Text.open(arguments.model)
    plan = arguments.load_plan() or _one_rank(config, arguments)
    room = arguments.room(config, plan)
    return ModelInUse(config, text, room, lambda: _launch(arguments, plan), plan)


def _one_rank(config: ModelConfig, arguments: ServeArguments) -> Plan:
    """Return the plan with one rank, on one GPU or on all cores of one node.

    Where there are to be more replicas than nodes without GPUs, they share the cores.
    """
    there = probe(threads=None)
    most = arguments.max_replicas or arguments.replicas
    if there.of_cpus and most > len(there.devices):
        sharing = -(-most // len(there.devices))
        there = probe(threads=max(1, min(each.threads for each in there.devices) // sharing))
    work = replace(arguments.workload(config), gpus=not there.of_cpus)
    return make_plan(config, there, stages=1, gang=1, workload=work)


def _rebalance(
    arguments: ServeArguments | RunArguments, source: ModelInUse, telemetry: Telemetry
) -> Rebalance | None:
    """Return how experts are placed; None where they stay: the ranks of a run are its own."""
    if isinstance(arguments, RunArguments) or not arguments.rebalance_seconds:
        return None
    arguments.check_rebalance(source.config, source.plan)
    return rebalance(arguments.rebalance_seconds, arguments.rebalance_gain, telemetry)


def _load(directories: Mapping[str, Path], adapters: Adapters) -> None:
    """Load the adapters of the arguments."""
    for name, directory in directories.items():
        try:
            adapters.load(name, directory)
        except Refusal as error:
            raise ConfigError(f"adapter {name}: {error}") from error


def _launch(arguments: ServeArguments, plan: Plan) -> ServingEngine:
    """Start the actors; a unique name separates them from the actors of an earlier attempt."""
    from actors.crew.patience import Patience
    from actors.deadlines import Deadlines
    from actors.engine import over_ray

    step = arguments.step_seconds
    hang = min(step, Deadlines().hang)
    deadlines = Deadlines(arguments.launch_seconds, command=step, group=step, hang=hang)
    there = plan.anywhere() if arguments.several else plan
    seconds = arguments.room_seconds
    patience = Patience(seconds, lambda reason: _LOG.info("waiting: %s", reason))
    name = uuid.uuid4().hex[:12]
    engine = over_ray.serve(
        name, arguments.model.absolute(), there, deadlines, arguments.answering, patience
    )
    engine.warm(arguments.spares)
    for rank, each in enumerate(engine.answerable):
        _LOG.info(
            "rank %d answers with %s weights (%.2f GB) and keeps %d tokens (%.2f GB)",
            rank,
            arguments.weights,
            each.weight_bytes / 1e9,
            arguments.cache_tokens,
            each.cache_bytes / 1e9,
        )
    return engine
