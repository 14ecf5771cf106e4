"""A Ray session: started here, or joined and left running."""

import logging
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private.worker import get_dashboard_url

from cluster.address import AUTO, LOCAL, reach, resolve_auto, speaks_http
from moe.errors import ClusterError

NAMESPACE = "raymoe"
"""Ray namespace of the actors of every run, so that jobs and Serve replicas find them by name."""

_STANDARD_ERROR = 2
_REASON_CHARACTERS = 300
"""Some errors of Ray contain a complete log; the beginning says what the error is about."""
_LOG_PREFIX = re.compile(r"\[[^\]]*\] \S+:\d+: ")
"""Lines of Ray's native log begin with time, level and process, then file and line."""

OBJECT_STORE_BYTES = 512 * 2**20
"""Object store of a Ray started here. Tensors travel between actors, never through the store."""


_DASHBOARD = (
    "{} is the address of a dashboard, which takes jobs only; send the run there with `raymoe "
    "submit`, or give the HOST:PORT of the cluster, whose default port is 6379"
)


@dataclass(frozen=True, slots=True)
class Session:
    """A connection to Ray. ``started`` is true if the end of the session also ends Ray.

    ``dashboard_url`` also accepts jobs; it is empty if Ray runs without its dashboard.
    """

    address: str
    dashboard_url: str
    namespace: str
    started: bool


@contextmanager
def session(address: str, cpus: float | None = None) -> Iterator[Session]:
    """Open a Ray session; close it at the end of the block, also after an exception.

    ``local`` starts Ray on this machine, with ``cpus`` logical CPUs (rounded up; default: one per
    core); inside a Ray job, which already runs on a cluster, ``local`` joins that cluster. ``auto``
    joins the cluster of ``RAY_ADDRESS``, or the one that ``ray start`` left on this machine;
    ``HOST:PORT`` joins that one. A process that is already connected keeps its connection.
    """
    if ray.is_initialized():
        yield _connected(address)
        return
    starting = starts(address)
    try:
        yield _start(cpus) if starting else _join(address)
    finally:
        ray.shutdown(wait_for_processes=starting)


def starts(address: str) -> bool:
    """Tell whether ``session`` will start a Ray of its own, on which nothing runs yet."""
    return address == LOCAL and not inside_job() and not ray.is_initialized()


def intent(address: str) -> str:
    """Return a line that says what ``session`` will do; the work may take a minute."""
    if ray.is_initialized():
        return "using the Ray session of this process"
    if starts(address):
        return "starting Ray on this machine"
    return f"joining the Ray cluster at {resolve_auto() if address in (LOCAL, AUTO) else address}"


def inside_job() -> bool:
    """Return whether the supervisor of a Ray job started this process."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and "RAY_ADDRESS" in os.environ


def logs() -> Path:
    """Return the log directory of the Ray processes that were last started on this machine."""
    newest = Path(get_default_ray_temp_dir()) / "session_latest"  # type: ignore[no-untyped-call]
    return newest.resolve() / "logs"


def _start(cpus: float | None) -> Session:
    if cpus is not None and not 0 < cpus < math.inf:
        raise ClusterError(f"asked for {cpus} logical CPUs; ask for more than 0, or for none")
    with _aside() as logged:
        try:
            ray.init(
                address=LOCAL,
                num_cpus=None if cpus is None else math.ceil(cpus),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                namespace=NAMESPACE,
                logging_level=logging.ERROR,
                log_to_driver=_log_to_driver(),
            )
        except Exception as error:  # Ray raises no narrower exception if its processes do not start
            raise ClusterError(
                f"Ray did not start on this machine: {_reason(error, logged())}; its logs are in "
                f"{logs()}; try again when the machine is less busy, or give the address of a "
                "running cluster"
            ) from error
    return _describe(started=True)


def _join(address: str) -> Session:
    target = _target(address)
    reach(target)
    if speaks_http(target):
        raise ClusterError(_DASHBOARD.format(target))
    with _aside() as logged:
        try:
            ray.init(
                address=target,
                namespace=NAMESPACE,
                logging_level=logging.ERROR,
                log_to_driver=_log_to_driver(),
            )
        except Exception as error:  # Ray raises no narrower exception if a cluster does not answer
            reason = _reason(error, logged())
            raise ClusterError(f"cannot join the Ray cluster at {target}: {_advice(reason)}") from (
                error
            )
    return _describe(started=False)


def _connected(address: str) -> Session:
    """Return the connection of this process; raise if ``address`` is another cluster."""
    found = _describe(started=False)
    if address not in (LOCAL, AUTO, found.address):
        raise ClusterError(
            f"asked for the Ray cluster at {address}, but this process is connected to "
            f"{found.address}; use {AUTO}, or leave the other session first"
        )
    return found


def _describe(started: bool) -> Session:
    context = ray.get_runtime_context()
    url = get_dashboard_url() or ""  # type: ignore[no-untyped-call]
    return Session(
        address=context.gcs_address,
        dashboard_url=f"http://{url}" if url and "://" not in url else url,
        namespace=context.namespace,
        started=started,
    )


def _target(address: str) -> str:
    """Return the address for Ray; raise ClusterError for an address that cannot drive a run."""
    target = resolve_auto() if address in (LOCAL, AUTO) else address
    if target.startswith("ray://"):
        raise ClusterError(
            f"{target} is an address of the Ray client, through which a run cannot be driven; "
            "send the run to the cluster with `raymoe submit`, or give HOST:PORT"
        )
    if "://" in target:
        raise ClusterError(_DASHBOARD.format(target))
    return target


def _advice(reason: str) -> str:
    if "uthenticat" in reason or "token" in reason:
        return f"{reason}; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the token of the cluster"
    if "ersion mismatch" in reason:
        return f"{reason}; install the versions of the cluster here, or use its image"
    return f"{reason}; check that the cluster is alive, and that RAY_AUTH_MODE is its mode"


def _reason(error: Exception, logged: str) -> str:
    """Return an error of Ray as one line, with the last line of its native log."""
    said = shorten(str(error), _REASON_CHARACTERS).rstrip(".") or type(error).__name__
    last = logged.strip().rpartition("\n")[2]
    detail = _LOG_PREFIX.sub("", last).strip().rstrip(".")
    return f"{said} ({detail})" if detail else said


@contextmanager
def _aside() -> Iterator[Callable[[], str]]:
    """Capture what Ray's native code writes to standard error; yield a function that returns it.

    If Ray cannot connect, it logs the reason every second and raises an error without the reason.
    """
    sys.stderr.flush()
    kept = os.dup(_STANDARD_ERROR)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:

        def logged() -> str:
            file.seek(0)
            return file.read()

        try:
            os.dup2(file.fileno(), _STANDARD_ERROR)
            yield logged
        finally:
            os.dup2(kept, _STANDARD_ERROR)
            os.close(kept)


def _log_to_driver() -> bool | None:
    """Keep the output of actors in Ray's logs, unless the environment chooses otherwise."""
    return None if "RAY_LOG_TO_DRIVER" in os.environ else False
