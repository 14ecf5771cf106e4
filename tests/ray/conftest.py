import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# A job joins the Ray whose address is noted in the temporary directory, so each process of
# pytest-xdist has a directory of its own.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ["RAY_TMPDIR"] = str(Path(tempfile.gettempdir()) / f"ray-{worker}")

import ray
from ray._private.utils import write_ray_address
from ray.cluster_utils import Cluster

from cluster.session import Session, session


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Session]:
    with session("local", cpus=8) as started:
        yield started


@pytest.fixture(scope="module")
def jobs_url(ray_session: Session) -> Iterator[str]:
    """The dashboard of a Ray that takes jobs.

    Jobs go through port 52365, which one Ray of this machine holds. Where that is another, a
    second one is started here, with a port of its own.
    """
    if ray.nodes()[0]["DashboardAgentListenPort"] >= 0:
        # Without a note, a job joins any Ray of the machine; a cluster that a test has ended took
        # the note with it.
        write_ray_address(ray_session.address)
        yield ray_session.dashboard_url
        return
    head = {"num_cpus": 8, "include_dashboard": True, "dashboard_port": free_port()}
    head["dashboard_agent_listen_port"] = free_port()
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield f"http://{cluster.head_node.webui_url}"
    finally:
        cluster.shutdown()
