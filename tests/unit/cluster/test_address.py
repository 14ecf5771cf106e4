import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

from cluster.address import reach, resolve_auto, speaks_http
from moe.errors import ClusterError


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":6379", "host:port", "host:70000", "http://"]
)
def test_what_is_no_address_is_refused_with_the_form_of_one(address: str) -> None:
    with pytest.raises(ClusterError, match="give HOST:PORT"):
        reach(address)


def test_a_path_without_http_is_refused_with_the_form_of_a_dashboard() -> None:
    with pytest.raises(ClusterError, match="give http://host:8265/ray for the dashboard"):
        reach("host:8265/ray")


def test_a_listening_port_is_reached_in_every_form() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reach(f"127.0.0.1:{port}")
        reach(f"http://127.0.0.1:{port}/")
        reach(f"http://127.0.0.1:{port}/behind/a/proxy")


@pytest.fixture
def dashboard() -> Iterator[str]:
    """Give HOST:PORT of a server that answers HTTP, if only to refuse."""
    handler = http.server.BaseHTTPRequestHandler
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_dashboard_speaks_http_and_a_cluster_does_not(dashboard: str) -> None:
    assert speaks_http(dashboard)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            connection.sendall(b"\0\0\x06\x04\0\0\0\0\0")  # how HTTP/2 begins, as gRPC does
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        assert not speaks_http(f"127.0.0.1:{port}")
    assert not speaks_http(f"127.0.0.1:{port}")


def test_a_closed_port_is_an_error_that_names_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(ClusterError, match=f"nothing answers at {address}"):
        reach(address)


def test_the_environment_decides_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert resolve_auto() == "10.0.0.1:6379"
