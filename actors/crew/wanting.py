"""Room that a run wants and that the cluster does not have: asked for by groups that wait.

Ray's autoscaler starts nodes for placement groups that wait. So a run asks with one group for each
gang, all on one node and with the labels of its ranks, and no actor ever starts in it. Groups that
are granted are given back at once: where gangs go is decided as for any other launch.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from ray.util import placement_group_table
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from actors.crew.nodes.bundles import Gang, bundle
from actors.crew.nodes.nodes import living_nodes
from moe.planning.devices.labels import for_ray

TRY_SECONDS = 30.0
"""Decide again after so long also where nothing has changed: Ray grants what is wanted one gang
after the other, and may find no place for the last where another order has one.
"""


LOOK_SECONDS = 0.5


class Wanting:
    """What one run asks the cluster for; nothing at first."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._gangs: tuple[Gang, ...] = ()
        self._groups: list[PlacementGroup] = []
        self._nodes: set[str] = set()
        self._asked = 0.0

    def ask(self, gangs: Sequence[Gang]) -> None:
        """Ask for a node for each gang, and for nothing else; wait for nothing."""
        if self._gangs == tuple(gangs):
            return
        self.give_back()
        self._gangs, self._nodes, self._asked = tuple(gangs), living_nodes(), time.monotonic()
        self._groups = [_group(self._run, gang) for gang in gangs]

    @property
    def ready(self) -> bool:
        """Whether to decide again: nothing is wanted, all is granted, or nodes came or went."""
        if not self._groups or time.monotonic() > self._asked + TRY_SECONDS:
            return True
        if self._nodes != living_nodes():
            return True
        table: Mapping[str, dict[str, Any]] = placement_group_table()
        return all(table[group.id.hex()]["state"] == "CREATED" for group in self._groups)

    def give_back(self) -> None:
        """Ask for nothing any more, and hold nothing."""
        for group in self._groups:
            remove_placement_group(group)
        self._gangs, self._groups = (), []


def await_news(
    run: str, gangs: Sequence[Gang], deadline: float, is_wanted: Callable[[], bool]
) -> None:
    """Ask for a node for each gang; return when it is worth to decide again, asking for no more.

    That is at the ``deadline`` too, by the monotonic clock, and where the run is not wanted any
    more.
    """
    wanting = Wanting(run)
    wanting.ask(gangs)
    try:
        while time.monotonic() < deadline and is_wanted() and not wanting.ready:
            time.sleep(LOOK_SECONDS)
    finally:
        wanting.give_back()


def _group(run: str, gang: Gang) -> PlacementGroup:
    """Ask for room for a gang; Ray removes the group with the process that asked."""
    labels = [for_ray(rank.labels) for rank in gang.ranks]
    group: PlacementGroup = placement_group(
        [bundle(rank) for rank in gang.ranks],
        strategy="STRICT_PACK",
        name=f"{run}/wanted-{uuid4().hex[:8]}",
        bundle_label_selector=labels if any(labels) else None,
    )
    return group
