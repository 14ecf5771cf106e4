"""A port of a pod on this machine, through the websocket of an API server in memory."""

import gc
import socket
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cluster.kube.forwarding import forwarded
from cluster.kube.kinds import POD
from moe.errors import ClusterError
from tests.kube.server import Store, serving
from tests.kube.tables import pod

LARGE = bytes(range(256)) * 4096


class _Dashboard(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(LARGE)))
        self.end_headers()
        self.wfile.write(LARGE)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


def test_several_connections_travel_whole(dashboard: int) -> None:
    store = Store(ports={("head", 8265): dashboard})
    store.put(pod("head", "head"), "pods")
    with serving(store) as api, forwarded(api, "raymoe", "head", 8265) as port:
        for _ in range(3):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as page:
                assert page.read() == LARGE


# The official client leaves sockets of a websocket that has ended to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_requests_go_on_while_connections_are_opened(dashboard: int) -> None:
    """The official client changes itself for each tunnel; ours must not be the one it changes."""
    store = Store(ports={("head", 8265): dashboard})
    store.put(pod("head", "head"), "pods")
    read: list[bytes] = []
    with serving(store) as api, forwarded(api, "raymoe", "head", 8265) as port:

        def fetch() -> None:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as page:
                read.append(page.read())

        threads = [threading.Thread(target=fetch) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert api.get(POD, "raymoe", "head") is not None
        assert api.version() == "v1.37.0"
    assert read == [LARGE] * 4
    gc.collect()


# The official client leaves sockets of a websocket that was refused to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_pod_that_is_not_there_and_a_port_that_is_taken_are_errors(dashboard: int) -> None:
    store = Store(ports={("head", 8265): dashboard})
    with serving(store) as api:
        with (
            pytest.raises(ClusterError, match="port 8265 of pod head cannot be reached"),
            forwarded(api, "raymoe", "head", 8265),
        ):
            pass
        store.put(pod("head", "head"), "pods")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            number = taken.getsockname()[1]
            with (
                pytest.raises(ClusterError, match=f"cannot listen on port {number}"),
                forwarded(api, "raymoe", "head", 8265, number),
            ):
                pass
    gc.collect()
