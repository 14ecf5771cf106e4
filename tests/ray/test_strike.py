"""Which nodes are not struck. ``tests.ray.scenarios`` strikes others."""

from pathlib import Path

import pytest
import ray

from actors.faults.armed import FaultPlan
from cluster.session import Session
from cluster.strike import strike
from moe.config.fault import Fault
from moe.errors import ClusterError
from moe.planning.plan.seats import Seat, Seats
from pipelines.training.faults import strike_nodes

pytestmark = pytest.mark.ray


def test_the_head_and_nodes_that_are_not_there_are_refused(ray_session: Session) -> None:
    head = ray.get_runtime_context().get_node_id()
    with pytest.raises(ClusterError, match=r"the head node .* there is no cluster"):
        strike(Fault("node", 0, 0), head)
    with pytest.raises(ClusterError, match=f"for node {'0' * 56}, but Ray has {head} alive"):
        strike(Fault("drain", 0, 0), "0" * 56)
    with pytest.raises(ClusterError, match="happens to a process; have its rank armed with it"):
        strike(Fault("kill", 0, 0, "step"), head)


def test_the_node_of_a_rank_is_struck_when_it_is_known_and_once(
    ray_session: Session, tmp_path: Path
) -> None:
    """The session has one node, the head: the try itself is what is seen."""
    faults = FaultPlan((Fault("node", 1, 3),), tmp_path / "marks")
    faults.open()
    seats, nodes = Seats(1, 2, 1), {Seat(0, 1, 0): ray.get_runtime_context().get_node_id()}
    strike_nodes(faults, 2, seats, nodes)
    strike_nodes(faults, 3, seats, {})
    assert faults.spent() == ()
    with pytest.raises(ClusterError, match=r"fault node:rank=1,step=3 is for the head node"):
        strike_nodes(faults, 5, seats, nodes)
    strike_nodes(faults, 5, seats, nodes)
    assert faults.spent() == faults.armed
