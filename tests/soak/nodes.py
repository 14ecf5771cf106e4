"""The nodes of a soak: a cloud that takes nodes back and brings others.

Only the main thread of a process may start a node of Ray's ``Cluster``.
"""

import time

import ray
from ray._private.state import state as ray_state
from ray.cluster_utils import Cluster

from cluster.session import NAMESPACE
from tests.ray.scenarios import FAST

COUNT = 3
CPUS = 2
CHECKS = FAST | {"health_check_failure_threshold": 6}
"""A machine that works at its limit answers late; its nodes are not gone."""


class Nodes:
    """A head without processors, and ``COUNT`` nodes of ``CPUS``: one may go and four ranks fit."""

    def __init__(self) -> None:
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": CHECKS}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = [self._added() for _ in range(COUNT)]
        ray.init(address=self._cluster.address, namespace=NAMESPACE, log_to_driver=False)

    @property
    def address(self) -> str:
        """Where the head is."""
        return str(self._cluster.address)

    def keep(self) -> None:
        """End nodes whose notice is over, and add one for each that is gone."""
        living = {row["NodeID"] for row in ray.nodes() if row["Alive"]}
        leaving = ray_state.get_draining_nodes()
        for node in [*self._nodes]:
            over = 0 < leaving.get(node.node_id, 0) < time.time() * 1000
            if over and node.node_id in living:
                node.kill_raylet()
            if over or node.node_id not in living:
                self._nodes.remove(node)
        while len(self._nodes) < COUNT:
            self._nodes.append(self._added())

    def close(self) -> None:
        """End everything."""
        ray.shutdown()
        self._cluster.shutdown()

    def _added(self):  # type: ignore[no-untyped-def]
        return self._cluster.add_node(num_cpus=CPUS, object_store_memory=80 * 2**20)
