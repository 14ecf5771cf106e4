"""Ray's job client: tries the address first, and raises errors that say what to do."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobSubmissionClient

from cluster.address import AUTO, LOCAL, reach, resolve_auto, speaks_http
from moe.errors import ClusterError

CHATTY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.working_dir",
)
"""Loggers of Ray that report uploads and closed sockets in the middle of the log that we follow."""


def connect(address: str) -> JobSubmissionClient:
    """Return a client of the dashboard at ``HOST:PORT/PATH``, or of the cluster at HOST:PORT.

    ``http://`` may be left out: whoever answers there is asked what it is.

    Two environment variables silently override the address that Ray is given; here a contradiction
    is an error.
    """
    if address == LOCAL:
        raise ClusterError(
            f"jobs go to a running cluster, but the address is {LOCAL}; give the address of its "
            f"dashboard, like http://HOST:8265, or {AUTO}"
        )
    for variable in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        given = os.environ.get(variable)
        if given and address not in (AUTO, given):
            raise ClusterError(
                f"asked for {address}, but {variable} is set to {given} and Ray would go there; "
                f"unset {variable}, or give {AUTO}"
            )
    target = resolve_auto() if address == AUTO else address
    if "://" not in target and "/" in target:
        target = f"http://{target}"
    reach(target)
    if "://" not in target and speaks_http(target):
        target = f"http://{target}"
    for chatty in CHATTY_LOGGERS:
        logging.getLogger(chatty).setLevel(logging.ERROR)
    return JobSubmissionClient(target)


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Turn an exception of Ray's client into a ClusterError that says what to do."""
    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(
            f"the cluster at {address} wants a token, and ours is missing or wrong; set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the token of the cluster"
        ) from error
    except (OSError, RuntimeError, ValueError, RayError, aiohttp.ClientError) as error:
        raise ClusterError(
            f"the cluster at {address} refused the request: {error}; "
            "check that its dashboard is reachable and runs the version of Ray that is here"
        ) from error
