"""Addresses of Ray clusters, resolved and tried first, because Ray itself retries for minutes."""

import http.client
import os
import socket
from urllib.parse import urlsplit

from ray._private.services import canonicalize_bootstrap_address_or_die

from moe.errors import ClusterError

LOCAL = "local"
AUTO = "auto"
REACH_SECONDS = 5.0


def resolve_auto() -> str:
    """Return the address behind ``auto``: RAY_ADDRESS, or the cluster on this machine."""
    if given := os.environ.get("RAY_ADDRESS"):
        return given
    try:
        return str(canonicalize_bootstrap_address_or_die(AUTO))
    except (OSError, ValueError) as error:
        raise ClusterError(
            "asked for a running Ray cluster, but RAY_ADDRESS is not set and none was found on "
            f"this machine; start one with `ray start --head`, give its HOST:PORT, or use {LOCAL}"
        ) from error


def reach(address: str) -> None:
    """Raise ClusterError unless something answers at ``HOST:PORT`` or ``http://HOST:PORT/PATH``."""
    try:
        socket.create_connection(_parts(address), timeout=REACH_SECONDS).close()
    except (OSError, UnicodeError) as error:
        raise ClusterError(
            f"nothing answers at {address}: {error}; check the address and that the cluster runs"
        ) from error


def speaks_http(address: str) -> bool:
    """Return whether a Ray dashboard, which speaks HTTP, listens at ``HOST:PORT``.

    The cluster itself speaks another protocol, and Ray waits half a minute before it finds out.
    """
    connection = http.client.HTTPConnection(*_parts(address), timeout=REACH_SECONDS)
    try:
        connection.request("GET", "/api/version")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _parts(address: str) -> tuple[str, int]:
    schemes = {"http": 80, "https": 443}
    try:
        url = urlsplit(address if "://" in address else f"//{address}")
        host, port = url.hostname, url.port or schemes.get(url.scheme)
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise ClusterError(
            f"{address} is not an address; give HOST:PORT, where 6379 is the default port of `ray "
            "start --head`, or http://HOST:8265 for the dashboard"
        )
    if url.path.strip("/") and url.scheme not in schemes:
        raise ClusterError(
            f"{address} has a path, which only the address of a dashboard has; give "
            f"http://{address} for the dashboard, or HOST:PORT for the cluster"
        )
    return host, port
