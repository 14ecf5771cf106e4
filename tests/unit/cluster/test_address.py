import socket

import pytest

from cluster.address import reach, resolve_auto
from moe.errors import ClusterError


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":6379", "host:port", "host:70000", "http://host:1/path"]
)
def test_what_is_no_address_is_refused_with_the_form_of_one(address: str) -> None:
    with pytest.raises(ClusterError, match="give HOST:PORT"):
        reach(address)


def test_a_listening_port_is_reached_in_either_form() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reach(f"127.0.0.1:{port}")
        reach(f"http://127.0.0.1:{port}/")


def test_a_closed_port_is_an_error_that_names_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(ClusterError, match=f"nothing answers at {address}"):
        reach(address)


def test_the_environment_decides_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert resolve_auto() == "10.0.0.1:6379"
