"""A port of a pod on this machine: each connection to it travels through the API server."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward

from cluster.kube.api import Api
from moe.errors import ClusterError

_CHUNK = 2**16


@contextmanager
def forwarded(api: Api, namespace: str, pod: str, port: int, local: int = 0) -> Iterator[int]:
    """Listen on a port of this machine while the block runs; yield it. 0 takes a free one."""
    _tunnel(api, namespace, pod, port).close()  # says now what would go wrong with each connection
    try:
        listener = socket.create_server(("127.0.0.1", local))
    except OSError as error:
        raise ClusterError(
            f"cannot listen on port {local}: {error.strerror}; choose another with --port"
        ) from error
    with closing(listener):
        words = (listener, api, namespace, pod, port)
        threading.Thread(target=_accept, args=words, daemon=True).start()
        yield int(listener.getsockname()[1])


def _accept(listener: socket.socket, api: Api, namespace: str, pod: str, port: int) -> None:
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            return  # the listener is closed: nobody needs the port any more
        words = (near, api, namespace, pod, port)
        threading.Thread(target=_carry, args=words, daemon=True).start()


def _carry(near: socket.socket, api: Api, namespace: str, pod: str, port: int) -> None:
    """Carry one connection both ways until either side ends it; HTTP ends no direction alone."""
    with closing(near), contextlib.suppress(OSError, ClusterError):
        with closing(_tunnel(api, namespace, pod, port)) as far:
            back = threading.Thread(target=_pump, args=(far, near), daemon=True)
            back.start()
            _pump(near, far)
        back.join()


def _pump(source: Any, target: Any) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    for side in (source, target):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)


def _tunnel(api: Api, namespace: str, pod: str, port: int) -> Any:
    # The official client changes itself while it opens a tunnel, so each tunnel has one of its own.
    core = client.CoreV1Api(client.ApiClient(api.client.configuration))
    try:
        tunnel = portforward(
            core.connect_get_namespaced_pod_portforward, pod, namespace, ports=str(port)
        )
    except ApiException as error:
        raise ClusterError(
            f"port {port} of pod {pod} cannot be reached through {api.host}: {error.reason}; the "
            "right is pods/portforward, and the pod must run (`raymoe kube doctor`)"
        ) from error
    return tunnel.socket(port)
