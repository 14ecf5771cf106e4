"""The Ray Serve application: one replica owns the actors of one plan, or attaches to those of a
training run, and answers over HTTP.

In a Serve config: ``import_path: pipelines.serving.app:build`` with ``args: {model: DIR}``.
"""

import logging
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import FastAPI
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import ApplicationStatus

from actors.engine.serving import ServingEngine
from cluster.address import LOCAL
from cluster.probe import probe
from cluster.session import logs, session
from moe import errors
from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.errors import ClusterError, ConfigError, LaunchError
from moe.planning.counts.workload import Workload
from moe.planning.plan.plan import Plan
from moe.planning.search.make import make_plan
from pipelines.serving.adapters import Adapters
from pipelines.serving.arguments import RunArguments, ServeArguments, parse_arguments
from pipelines.serving.experts import rebalance
from pipelines.serving.generation.rebalancing import Rebalance
from pipelines.serving.generation.scheduler import Scheduler
from pipelines.serving.http.api import CLOSE_SECONDS, create_app
from pipelines.serving.living.model import ModelInUse, of_run
from pipelines.serving.meter import Meter
from pipelines.serving.refusals import Refusal, Unavailable
from pipelines.serving.service import Service
from pipelines.serving.telemetry import Telemetry
from pipelines.serving.text.text import Text

APPLICATION = "raymoe"
SPARE_REQUESTS = 64
"""Requests that a replica accepts beyond its queue: for models and health, and requests to
refuse.
"""

_LOGS = "see logs/serve in the newest session directory of Ray"
_LOG = logging.getLogger(__name__)

T = TypeVar("T")


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
            parts = self._service, self._scheduler
            self._service.adapters = _adapters(arguments, source.plan, *parts)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._service, self._access)

    async def check_health(self) -> None:
        """Raise if the engine could not be rebuilt, so that Ray Serve replaces the replica.

        One that answers with the ranks of a run waits for the run instead.
        """
        if not self._of_run and self._scheduler.status.state == "failed":
            raise Unavailable("the engine is down and could not be rebuilt")


DEPLOYMENT: serve.Deployment = serve.deployment(
    name="server",
    ray_actor_options={"num_cpus": 0},
    max_constructor_retry_count=1,
    graceful_shutdown_timeout_s=2 * CLOSE_SECONDS,
)(serve.ingress()(Server))


def build(args: Mapping[str, Any]) -> serve.Application:
    """Return the application for a model; Serve configs and ``run_server`` deploy it."""
    arguments = parse_arguments(args)
    ongoing = arguments.limits.held + SPARE_REQUESTS
    return DEPLOYMENT.options(max_ongoing_requests=ongoing).bind(arguments)


def run_server(
    arguments: ServeArguments | RunArguments,
    host: str,
    port: int,
    address: str = LOCAL,
    report: Callable[[str], None] = _LOG.info,
) -> None:
    """Serve until an interrupt (Ctrl-C, SIGTERM); then end everything that was started."""
    arguments.check()
    if address == LOCAL:
        check_port(host, port)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # ``report`` tells it
    with session(address) as ray_session, _interruptible():
        _refuse_second_server()
        report(f"starting {arguments.served_name}")
        try:
            _start_serve(host, port)
            _serve(arguments, lambda: report(f"serving at http://{host}:{port}/v1"))
        except KeyboardInterrupt:
            report("stopped")
        finally:
            if not ray_session.started:
                _tried(serve.shutdown)


def check_port(host: str, port: int) -> None:
    """Raise ClusterError unless a server can listen at this host and port."""
    if not 0 < port < 2**16:
        raise ClusterError(f"{port} is no port; choose one from 1 to {2**16 - 1}")
    try:
        family, *_, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
    except OSError as error:
        raise ClusterError(
            f"cannot listen on {host}:{port}: {error}; stop the program that uses it, or choose "
            "another --port"
        ) from error


def _refuse_second_server() -> None:
    """Raise ClusterError if Ray Serve runs already: a cluster has one set of applications and one
    port.
    """
    if serve.status().proxies:
        raise ClusterError(
            "Ray Serve already runs on this cluster; add the model to its config and "
            "`serve deploy` it, or `serve shutdown` it first"
        )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Treat SIGTERM, which stops containers, like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_serve(host: str, port: int) -> None:
    """Start Ray Serve's controller and its proxies, which listen at the port."""
    try:
        serve.start(http_options=HTTPOptions(host=host, port=port))
    except Exception as error:
        raise LaunchError(
            f"Ray Serve did not come up: {_last_line(str(error))}; its logs are in "
            f"{logs() / 'serve'}; try again when the machine is less busy"
        ) from error


def _serve(arguments: ServeArguments | RunArguments, ready: Callable[[], None]) -> None:
    """Deploy the application and wait; end the actors when the wait ends, for any reason."""
    try:
        serve.run(build(arguments.model_dump()), name=APPLICATION, route_prefix="/")
        ready()
        threading.Event().wait()
    except Exception as error:
        said = _tried(_reason) or f"{_last_line(str(error))}; {_LOGS}"
        raise LaunchError(f"the model could not be served: {said}") from error
    finally:
        _tried(lambda: serve.delete(APPLICATION))


def _reason() -> str:
    """Return the message of the error that a replica of a failed deployment raised."""
    found = serve.status().applications.get(APPLICATION)
    if found is None or found.status == ApplicationStatus.RUNNING:
        return ""
    return _last_line("\n".join(each.message for each in found.deployments.values()))


def _last_line(text: str) -> str:
    """Return the last line of a Ray traceback, the message; without the class name for our
    errors.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1].rstrip(".") if lines else ""
    return last.partition(": ")[2] if last.startswith(errors.__name__) else last


def _tried(call: Callable[[], T]) -> T | None:
    """Call a function and log a failure instead of raising it, so that the original error is
    reported.
    """
    try:
        return call()
    except Exception:
        _LOG.debug("Ray Serve does not answer", exc_info=True)
        return None


def _of_model(arguments: ServeArguments) -> ModelInUse:
    """Return the model of a directory, on ranks of its own."""
    config, text = Checkpoint.open(arguments.model).config, Text.open(arguments.model)
    plan = arguments.load_plan() or _one_rank(config, arguments.workload(config))
    room = arguments.room(config, plan)
    return ModelInUse(config, text, room, lambda: _launch(arguments, plan), plan)


def _one_rank(config: ModelConfig, workload: Workload) -> Plan:
    """Return the plan with one rank, on one GPU or on all cores of one node."""
    there = probe(threads=None)
    work = replace(workload, gpus=not there.of_cpus)
    return make_plan(config, there, stages=1, gang=1, workload=work)


def _rebalance(
    arguments: ServeArguments | RunArguments, source: ModelInUse, telemetry: Telemetry
) -> Rebalance | None:
    """Return how experts are placed; None for the ranks of a run, where the run decides that."""
    if isinstance(arguments, RunArguments):
        return None
    arguments.check_rebalance(source.config, source.plan)
    return rebalance(arguments.rebalance_seconds, arguments.rebalance_gain, telemetry)


def _adapters(
    arguments: ServeArguments, plan: Plan, service: Service, scheduler: Scheduler
) -> Adapters:
    """Load the adapters of the arguments."""
    config = Checkpoint.open(arguments.model).config
    memory = arguments.adapter_memory(config, plan)
    adapters = Adapters(service.name, memory, scheduler, service.telemetry)
    for name, directory in arguments.adapters.items():
        try:
            adapters.load(name, directory)
        except Refusal as error:
            raise ConfigError(f"adapter {name}: {error}") from error
    return adapters


def _launch(arguments: ServeArguments, plan: Plan) -> ServingEngine:
    """Start the actors; a unique name separates them from the actors of an earlier attempt."""
    from actors.crew.patience import Patience
    from actors.deadlines import Deadlines
    from actors.engine import over_ray

    step = arguments.step_seconds
    hang = min(step, Deadlines().hang)
    deadlines = Deadlines(arguments.launch_seconds, command=step, group=step, hang=hang)
    name = f"serve-{uuid.uuid4().hex[:12]}"
    patience = Patience(arguments.wait_seconds, lambda reason: _LOG.info("waiting: %s", reason))
    engine = over_ray.serve(
        name, arguments.model.absolute(), plan, deadlines, arguments.answering, patience
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
