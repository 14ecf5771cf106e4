"""What nodes mean for a run, on nodes that are values."""

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from actors.crew.nodes.room import Room
from cluster.watch import Nodes, NodeWatch
from moe.config.run import RunConfig
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from pipelines.training.aim import Aim
from pipelines.training.following import Following
from pipelines.training.rescaled import NotRescaled
from tests import runs
from tests.places import room, taken
from tests.routed import routed

CONFIG = routed(3)
STAGES = runs.plan(CONFIG, (2, 1))
ONE_STAGE = runs.plan(CONFIG, (3,))
HERE, THERE = room("here", CPU=2), room("there", CPU=2)


class Cluster:
    """Nodes and what is free on them, as a test says."""

    def __init__(self) -> None:
        self.nodes = Nodes(frozenset({HERE.id}))
        self.rooms: list[Room] = [taken(HERE, CPU=2)]
        self.watch = NodeWatch(lambda: self.nodes, seconds=0.005)

    def become(self, nodes: Nodes) -> None:
        self.nodes = nodes
        deadline = time.monotonic() + 5
        while self.watch.nodes != nodes:
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def joined(self, more: Room) -> None:
        """Have a node join, idle."""
        self.rooms.append(more)
        self.become(Nodes(self.nodes.living | {more.id}))

    def following(self, began: Plan, **elastic: Any) -> Following:
        section = {"follow_nodes": True} | elastic
        run = run_of(elastic=section, plan={"replicas": 2, "least_replicas": 1})
        return Following(Aim.of(run, CONFIG, 8, began), self.watch, lambda: self.rooms)


def run_of(**sections: Any) -> RunConfig:
    return runs.run_config(Path("model"), **sections)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.watch.close()


def on(node: Room, plan: Plan) -> Mapping[Seat, str]:
    return dict.fromkeys(plan.seats, node.id)


def test_a_run_grows_when_a_node_joins_that_has_room(cluster: Cluster) -> None:
    nodes, following = on(HERE, STAGES), cluster.following(STAGES)
    assert (following.changed(), following.due(STAGES, nodes)) == (False, True)
    assert following.wish(STAGES, nodes) is None
    following.decided()
    assert not following.due(STAGES, nodes)
    cluster.joined(THERE)
    assert (following.changed(), following.due(STAGES, nodes)) == (True, True)
    wish = following.wish(STAGES, nodes)
    assert wish is not None
    assert (wish.replicas, wish.of_replicas(1)) == (2, STAGES)
    assert not following.due(wish, on(HERE, wish))


def test_a_node_that_is_too_small_or_that_leaves_has_no_room(cluster: Cluster) -> None:
    nodes, following = on(HERE, STAGES), cluster.following(STAGES)
    cluster.joined(room("small", CPU=1))
    assert following.wish(STAGES, nodes) is None


def test_a_run_on_fewer_stages_goes_back_to_those_it_began_with(cluster: Cluster) -> None:
    nodes, following = on(HERE, ONE_STAGE), cluster.following(STAGES)
    cluster.joined(room("small", CPU=1))
    wish = following.wish(ONE_STAGE, nodes)
    assert wish == STAGES
    cluster.joined(THERE)
    wish = following.wish(ONE_STAGE, nodes)
    assert wish is not None
    assert wish.replicas == 2


def test_a_run_that_does_not_follow_or_has_its_aim_does_nothing(cluster: Cluster) -> None:
    nodes, still = on(HERE, STAGES), cluster.following(STAGES, follow_nodes=False)
    cluster.joined(THERE)
    assert not still.due(STAGES, nodes)
    assert still.wish(STAGES, nodes) is None
    still.aim(runs.repeated(STAGES, 2))
    assert still.wish(STAGES, nodes) is None
    following = cluster.following(STAGES)
    following.aim(STAGES)
    assert not following.due(STAGES, nodes)


def test_seats_of_a_node_that_leaves_are_due_also_where_the_run_does_not_follow(
    cluster: Cluster,
) -> None:
    both = {Seat(0, 0, 0): HERE.id, Seat(0, 1, 0): THERE.id}
    following = cluster.following(STAGES, follow_nodes=False)
    cluster.joined(THERE)
    assert (following.changed(), following.due(STAGES, both)) == (True, False)
    cluster.become(Nodes(cluster.nodes.living, {THERE.id: time.time() + 60}))
    assert (following.changed(), following.due(STAGES, both)) == (True, True)
    ((seat, seconds),) = following.leaving(both).items()
    assert seat == Seat(0, 1, 0)
    assert 50 < seconds <= 60
    following.told(NotRescaled(3, disturbed=False, reason="no room"))
    assert not following.due(STAGES, both)
    cluster.become(Nodes(cluster.nodes.living, {THERE.id: math.inf}))
    assert (following.changed(), following.due(STAGES, both)) == (True, True)
    assert not following.due(STAGES, on(HERE, STAGES))
