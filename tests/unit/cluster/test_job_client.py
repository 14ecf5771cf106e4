"""Addresses that job clients take, against an HTTP server that answers as a dashboard does."""

import http.server
import json
import threading
from collections.abc import Iterator

import pytest
import ray

from cluster.job_client import connect, translated


class _Dashboard(http.server.BaseHTTPRequestHandler):
    """Answers below a prefix, as a proxy lets a dashboard do."""

    def do_GET(self) -> None:
        versions = {"version": "4", "ray_version": ray.__version__, "ray_commit": "", "session": ""}
        body = json.dumps(versions if self.path.endswith("version") else []).encode()
        self.send_response(200 if self.path.startswith("/ray/api/") else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for variable in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("address", ["http://{}/ray", "{}/ray"])
def test_the_scheme_of_a_dashboard_may_be_left_out(host: str, address: str) -> None:
    with translated(host):
        assert connect(address.format(host)).list_jobs() == []
