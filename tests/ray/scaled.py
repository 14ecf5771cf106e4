"""A real run and its pods, resized together: through the API server, a port of the head, a job.

Run as a program, because jobs need a Ray whose agent has a port of its own. What was seen goes to a
JSON file. Each pod is a node of Ray with an address of its own.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "disabled"

import ray
from ray.cluster_utils import Cluster

from cluster.kube.forwarding import forwarded
from cluster.kube.scale_wish import wish_of
from cluster.session import NAMESPACE
from moe.config.run import RunConfig
from moe.errors import ClusterError
from moe.planning.plan.plan import Plan
from pipelines.deploying.run_there import RunThere
from pipelines.deploying.scaling import Scaling
from pipelines.training.board import stop
from pipelines.training.train import train
from tests import material
from tests.driven import once
from tests.kube.played import JOB, PlayedPods
from tests.kube.server import Store, serving
from tests.kube.tables import pod
from tests.manifests.samples import SIZES, deployment, two_stages
from tests.ray.conftest import free_port

PYTHON = f"env PYTHONPATH={Path(__file__).parents[2]} {sys.executable}"
SECONDS = 300
DASHBOARD = 8265

Told = dict[str, Any]


class Scene:
    """A Ray that takes jobs, a run on it, and the pods that the run has."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": self._port}
        head["dashboard_agent_listen_port"] = free_port()
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=self._cluster.address, namespace=NAMESPACE, log_to_driver=False)
        self._run = _run(folder, self._cluster.address)
        self._store = Store()
        self._pods = PlayedPods(self._store, lambda: ["p1"], self._node)
        self._pods.begin(_one_stage(), deployment(namespace="raymoe"))
        self._store.put(pod("head", "head"), "pods")
        self._store.ports["head", DASHBOARD] = self._port
        self._seen: list[tuple[int, list[str]]] = []

    def play(self) -> Told:
        """Train, and resize the run in the middle of it."""
        try:
            train(self._run, "never", lambda plan, session: None, once(3, self._resize))
        except ClusterError as stopped:
            return {"seen": self._seen, "lines": self._pods.lines, "ended": str(stopped)}
        return {"ended": "by itself"}

    def close(self) -> None:
        """End the cluster."""
        ray.shutdown()
        self._cluster.shutdown()

    def _node(self, number: int) -> str:
        """Start the node of a pod; return its address."""
        address = f"127.0.0.{number + 1}"
        memory = 80 * 2**20
        self._cluster.add_node(num_cpus=1, node_ip_address=address, object_store_memory=memory)
        return address

    def _resize(self) -> None:
        """To two replicas, once more to two, and back to one."""
        with (
            serving(self._store) as api,
            forwarded(api, "raymoe", "head", DASHBOARD) as local,
        ):
            there = RunThere(self._run.name, f"http://127.0.0.1:{local}", PYTHON)
            for replicas in (2, 2, 1):
                scaling = Scaling(api, "raymoe", JOB, there, self._pods.tell)
                scaling.carry_out(wish_of(replicas, None, None), SECONDS)
                self._seen.append((there.stands().replicas, self._pods.names))
        stop(self._run.name)


def _run(folder: Path, address: str) -> RunConfig:
    table = {
        "train": {"global_batch": 8},
        "plan": {"stages": 1},
        "cluster": {"address": address},
    }
    return material.run(material.make(folder), folder / "run", 1_000_000, 0, table)


def _one_stage() -> Plan:
    first = two_stages().stages[0]
    return Plan(SIZES, (replace(first, layers=(0, SIZES["layers"])),))


def main() -> None:
    """Write what was seen."""
    folder = Path(sys.argv[1])
    scene = Scene(folder)
    try:
        told = scene.play()
    finally:
        scene.close()
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
