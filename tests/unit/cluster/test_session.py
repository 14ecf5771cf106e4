import http.server
import os
import threading

import pytest

from cluster.session import _advice, _aside, _reason, inside_job, session
from moe.errors import ClusterError


def _refused(address: str, cpus: float | None = None) -> str:
    with pytest.raises(ClusterError) as caught, session(address, cpus):
        pass
    return str(caught.value)


def test_a_ray_client_address_points_to_submit() -> None:
    assert "raymoe submit" in _refused("ray://10.0.0.1:10001")


def test_a_dashboard_address_points_to_submit() -> None:
    assert "raymoe submit" in _refused("http://10.0.0.1:8265")


def test_an_address_where_nothing_answers_fails_at_once() -> None:
    assert "nothing answers at 127.0.0.1:1" in _refused("127.0.0.1:1")


@pytest.mark.parametrize("cpus", [0, -1, float("inf"), float("nan")])
def test_impossible_cpus_are_refused_before_ray_starts(cpus: float) -> None:
    assert "logical CPUs" in _refused("local", cpus)


def test_inside_a_job_local_means_the_cluster_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert not inside_job()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert inside_job()
    assert "nothing answers at 127.0.0.1:1" in _refused("local")


def test_a_dashboard_as_the_address_of_a_cluster_points_to_submit() -> None:
    handler = http.server.BaseHTTPRequestHandler
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = _refused(f"127.0.0.1:{server.server_port}")
        server.shutdown()
    assert "is the address of a dashboard, which takes jobs only" in said


def test_the_reason_that_ray_logs_is_told_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with _aside() as logged:
        for second in range(20):
            line = f"[2026-01-01 00:00:{second:02} W 1 1] gcs.cc:210: Unauthenticated: wrong\n"
            os.write(2, line.encode())
        reason = _reason(ConnectionError("Failed to\nconnect."), logged())
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
    assert reason == "Failed to connect (Unauthenticated: wrong)"
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in _advice(reason)
    assert _reason(TimeoutError(), "") == "TimeoutError"
