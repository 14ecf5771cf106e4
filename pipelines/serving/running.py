"""A server from its start to its end: Ray, Ray Serve, the application, an interrupt."""

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import ApplicationStatus

from cluster.address import LOCAL
from cluster.session import logs, session
from moe import errors
from moe.errors import ClusterError, LaunchError
from pipelines.serving.app import build
from pipelines.serving.arguments import RunArguments, ServeArguments

APPLICATION = "raymoe"

_LOGS = "see logs/serve in the newest session directory of Ray"
_LOG = logging.getLogger(__name__)

T = TypeVar("T")


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
