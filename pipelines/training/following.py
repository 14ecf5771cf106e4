"""What the nodes of a cluster mean for a run: who has to leave in time, and to what it can grow.

Asked between two steps. While nothing is to be done it costs no question to Ray; while a node
leaves, or the run is smaller than it began, one every few seconds.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from actors.crew.nodes.filling import finds_places
from actors.crew.nodes.nodes import rooms
from actors.crew.nodes.room import Room
from cluster.watch import NodeWatch
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from pipelines.training.aim import Aim
from pipelines.training.rescaled import NotRescaled, Rescaled

AGAIN_SECONDS = 5.0
"""Until nodes are looked at again that have not changed: what others hold there may be free."""

FAILED_SECONDS = 60.0
"""Until a change is tried again that failed; a change that fails stops training for its time."""


class Following:
    """Follows the nodes of a run."""

    def __init__(
        self, aim: Aim, watch: NodeWatch, asked: Callable[[], Sequence[Room]] = rooms
    ) -> None:
        self._aim = aim
        self._watch = watch
        self._rooms = asked
        self._seen = watch.nodes
        self._again = 0.0

    def changed(self) -> bool:
        """Tell whether nodes joined, died or were told to leave since the last call."""
        before, self._seen = self._seen, self._watch.nodes
        if before == self._seen:
            return False
        self._again = 0.0
        return True

    def due(self, plan: Plan, nodes: Mapping[Seat, str]) -> bool:
        """Tell whether there is something to decide for a plan, whose seats are on ``nodes``."""
        if time.monotonic() < self._again:
            return False
        return bool(self.leaving(nodes)) or any(True for _ in self._aim.larger(plan))

    def decided(self) -> None:
        """Note that what was due is decided; it is due again after a while."""
        self._again = time.monotonic() + AGAIN_SECONDS

    def told(self, became: Rescaled | NotRescaled) -> None:
        """Take note of what became of a change; after one that failed it is long until the next."""
        if isinstance(became, NotRescaled):
            self._again = time.monotonic() + FAILED_SECONDS

    def aim(self, goal: Plan) -> None:
        """Grow to another plan at most, as where the operator wished for one."""
        if self._aim.goal is not None:
            self._aim = replace(self._aim, goal=goal)

    def leaving(self, nodes: Mapping[Seat, str]) -> dict[Seat, float]:
        """Return the seconds left to the seats whose nodes are told to leave."""
        left = {each.node: each.seconds for each in self._watch.leaving()}
        return {seat: left[node] for seat, node in nodes.items() if node in left}

    def wish(self, plan: Plan, nodes: Mapping[Seat, str]) -> Plan | None:
        """Return the largest plan to grow to for which there is room now; None where none is."""
        for wanted in self._aim.larger(plan):
            if finds_places(wanted, self._aim.stays(plan, wanted, nodes), self._rooms()):
                return wanted
        return None
