"""Which nodes are not struck. ``tests.ray.scenarios`` strikes others."""

import pytest
import ray

from cluster.session import Session
from cluster.strike import strike
from moe.config.fault import Fault
from moe.errors import ClusterError

pytestmark = pytest.mark.ray


def test_the_head_and_nodes_that_are_not_there_are_refused(ray_session: Session) -> None:
    head = ray.get_runtime_context().get_node_id()
    with pytest.raises(ClusterError, match=r"the head node .* there is no cluster"):
        strike(Fault("node", 0, 0), head)
    with pytest.raises(ClusterError, match=f"for node {'0' * 56}, but Ray has {head} alive"):
        strike(Fault("drain", 0, 0), "0" * 56)
    with pytest.raises(ClusterError, match="happens to a process; have its rank armed with it"):
        strike(Fault("kill", 0, 0, "step"), head)
