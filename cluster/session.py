"""A Ray session: started here or joined, and left as it was found."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray._private.worker import get_dashboard_url
from ray.exceptions import RayError

from cluster.address import AUTO, LOCAL, reach, resolve_auto
from moe.errors import ClusterError

NAMESPACE = "raymoe"
"""Where the actors of every run live, so that jobs and Serve replicas find them by name."""

OBJECT_STORE_BYTES = 512 * 2**20
"""Object store of a Ray started here. Tensors travel between actors, never through the store."""


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


def inside_job() -> bool:
    """Tell whether this process was started by the supervisor of a Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and "RAY_ADDRESS" in os.environ


def _start(cpus: float | None) -> Session:
    if cpus is not None and not 0 < cpus < math.inf:
        raise ClusterError(f"asked for {cpus} logical CPUs; ask for more than 0, or for none")
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
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise ClusterError(
            f"Ray did not start on this machine: {error}; the logs of the attempt are in the "
            "newest session directory of Ray, or set cluster.address to a running cluster"
        ) from error
    return _describe(started=True)


def _join(address: str) -> Session:
    target = _target(address)
    reach(target)
    try:
        ray.init(
            address=target,
            namespace=NAMESPACE,
            logging_level=logging.ERROR,
            log_to_driver=_log_to_driver(),
        )
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise ClusterError(f"cannot join the Ray cluster at {target}: {_advice(error)}") from error
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
        raise ClusterError(
            f"{target} is an address of the dashboard, which takes jobs only; send the run there "
            "with `raymoe submit`, or give the HOST:PORT of the cluster"
        )
    return target


def _advice(error: Exception) -> str:
    text = str(error).rstrip(".")
    if "uthenticat" in text or "token" in text:
        return f"{text}; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the token of the cluster"
    if "ersion mismatch" in text:
        return f"{text}; install the versions of the cluster here, or use its image"
    return f"{text}; check that the cluster is alive, and RAY_AUTH_MODE is what it runs with"


def _log_to_driver() -> bool | None:
    """Keep the output of actors in Ray's logs, unless the environment says where it goes."""
    return None if "RAY_LOG_TO_DRIVER" in os.environ else False
