"""A Ray session: started here or joined, and left as it was found."""

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

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private.worker import get_dashboard_url

from cluster.address import AUTO, LOCAL, reach, resolve_auto, speaks_http
from moe.errors import ClusterError

NAMESPACE = "raymoe"
"""Where the actors of every run live, so that jobs and Serve replicas find them by name."""

_STANDARD_ERROR = 2
_LOG_PREFIX = re.compile(r"\[[^\]]*\] \S+:\d+: ")
"""Time, level and process, then file and line: how lines of Ray's native log begin."""

OBJECT_STORE_BYTES = 512 * 2**20
"""Object store of a Ray started here. Tensors travel between actors, never through the store."""


_DASHBOARD = (
    "{} is the address of a dashboard, which takes jobs only; send the run there with `raymoe "
    "submit`, or give the HOST:PORT of the cluster, whose port is 6379 unless told otherwise"
)


@dataclass(frozen=True, slots=True)
class Session:
    """A connection to Ray. ``started`` is true where leaving the session also ends Ray.

    ``dashboard_url`` takes jobs too; it is empty where Ray runs without its dashboard.
    """

    address: str
    dashboard_url: str
    namespace: str
    started: bool


@contextmanager
def session(address: str, cpus: float | None = None) -> Iterator[Session]:
    """Give a Ray session and end it, whatever happens inside.

    ``local`` starts Ray on this machine, with ``cpus`` logical CPUs (rounded up; default: one per
    core), except inside a Ray job, which is already on a cluster: there it joins that. ``auto``
    joins the cluster of ``RAY_ADDRESS``, or the one that ``ray start`` left on this machine;
    ``HOST:PORT`` joins that one. A process that is already connected keeps its connection.
    """
    if ray.is_initialized():
        yield _connected(address)
        return
    starting = address == LOCAL and not inside_job()
    try:
        yield _start(cpus) if starting else _join(address)
    finally:
        ray.shutdown(wait_for_processes=starting)


def intent(address: str) -> str:
    """Return what ``session`` is about to do, which may take a minute."""
    if ray.is_initialized():
        return "using the Ray session of this process"
    if address == LOCAL and not inside_job():
        return "starting Ray on this machine"
    return f"joining the Ray cluster at {resolve_auto() if address in (LOCAL, AUTO) else address}"


def inside_job() -> bool:
    """Tell whether this process was started by the supervisor of a Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and "RAY_ADDRESS" in os.environ


def logs() -> Path:
    """Return the directory where Ray's processes of this machine log, those started last."""
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
        except Exception as error:  # Ray raises nothing narrower where its processes do not start
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
        except Exception as error:  # Ray raises nothing narrower where a cluster does not answer
            reason = _reason(error, logged())
            raise ClusterError(f"cannot join the Ray cluster at {target}: {_advice(reason)}") from (
                error
            )
    return _describe(started=False)


def _connected(address: str) -> Session:
    """Describe the connection that this process has; refuse an address that is another's."""
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
    """Return the address to give to Ray; those that cannot carry a run are refused."""
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
    return f"{reason}; check that the cluster is alive, and RAY_AUTH_MODE is what it runs with"


def _reason(error: Exception, logged: str) -> str:
    """Return an error of Ray as one line, with the last line that its native code logged."""
    said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    last = logged.strip().rpartition("\n")[2]
    detail = _LOG_PREFIX.sub("", last).strip().rstrip(".")
    return f"{said} ({detail})" if detail else said


@contextmanager
def _aside() -> Iterator[Callable[[], str]]:
    """Keep standard error free of what Ray's native code logs; yield a function that returns it.

    Where Ray cannot connect it logs the reason, again every second, and raises an error without it.
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
    """Keep the output of actors in Ray's logs, unless the environment says where it goes."""
    return None if "RAY_LOG_TO_DRIVER" in os.environ else False
