import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray

from cluster.session import NAMESPACE, Session, session
from moe.errors import ClusterError

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]

JOINED_THEN_LEFT = """
import json, sys
from dataclasses import asdict
import ray
from cluster.session import session
with session(sys.argv[1]) as joined:
    print(json.dumps(asdict(joined)))
assert not ray.is_initialized()
"""

STARTED_AND_WAITING = """
import os
import signal
import time
from cluster.session import session
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under nohup, and inherited
with session("local", cpus=1) as started:
    print(started.address, flush=True)
    time.sleep(300)
"""


def test_a_started_session_has_its_dashboard_namespace_and_cpus(ray_session: Session) -> None:
    assert ray_session.started
    assert ray_session.namespace == NAMESPACE
    assert ray_session.dashboard_url.startswith("http://127.0.0.1:")
    assert ray.cluster_resources()["CPU"] == 8


@pytest.mark.parametrize("address", ["local", "auto"])
def test_a_connected_process_keeps_its_connection(ray_session: Session, address: str) -> None:
    with session(address) as inner:
        assert inner.address == ray_session.address
        assert inner.dashboard_url == ray_session.dashboard_url
        assert not inner.started
    assert ray.is_initialized()


def test_another_address_in_a_connected_process_is_refused(ray_session: Session) -> None:
    with pytest.raises(ClusterError, match="this process is connected to"), session("10.0.0.1:1"):
        pass


def test_a_joined_cluster_outlives_the_session(ray_session: Session) -> None:
    done = subprocess.run(
        [sys.executable, "-c", JOINED_THEN_LEFT, ray_session.address],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    joined = json.loads(done.stdout)
    assert joined == {
        "address": ray_session.address,
        "dashboard_url": ray_session.dashboard_url,
        "namespace": NAMESPACE,
        "started": False,
    }
    assert ray.cluster_resources()["CPU"] == 8


def test_an_interrupted_session_leaves_no_process() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STARTED_AND_WAITING],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert ":" in process.stdout.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in stderr
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


STARTING_IN_VAIN = """
import sys
sys.modules["ray.dashboard.optional_deps"] = None  # as where a package of Ray is broken
from cluster.session import session
from moe.errors import ClusterError
try:
    with session("local", cpus=1):
        print("started")
except ClusterError as error:
    print(error)
"""


def test_a_ray_that_does_not_start_is_one_sentence_with_its_logs() -> None:
    """Ray logs a page and raises a bare Exception where its own processes do not start."""
    done = subprocess.run(
        [sys.executable, "-c", STARTING_IN_VAIN],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith("Ray did not start on this machine: ")
    logs = Path(line.partition("its logs are in ")[2].partition(";")[0])
    assert logs.is_dir()
    assert logs.name == "logs"
