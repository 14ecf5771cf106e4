"""How long it takes to move ranks to other nodes, from what the run has measured.

A change of plan has parts that cost as much whatever is moved (processes, meeting) and parts that
cost by the byte. Before the first change the copies, which travel between the same ranks, tell how
fast bytes go.
"""

from collections.abc import Collection

from actors.engine.copying import Copied
from actors.engine.healing import Making
from actors.engine.resizing import Resized
from moe.planning.moves.difference import diff
from moe.planning.moves.seating import Seating
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat

FIXED_SECONDS = 5.0
"""Processes, imports and meeting, before any change of plan was measured."""

BYTES_PER_SECOND = 1.25e8
"""Between two nodes before anything was measured: Ethernet of 1 Gbit/s, which every cluster has."""

BY_THE_BYTE = ("moved", "copied")
"""The parts of a change that move tensors."""


class Pace:
    """Seconds of a change of plan: those measured last, else predicted."""

    def __init__(self) -> None:
        self._fixed = FIXED_SECONDS
        self._rate: float | None = None

    def note(self, resized: Resized) -> None:
        """Take over what a change of plan has cost."""
        moving = sum(resized.seconds.get(part, 0.0) for part in BY_THE_BYTE)
        self._fixed = sum(resized.seconds.values()) - moving
        if resized.bytes and moving > 0:
            self._rate = resized.bytes / moving

    def seconds(self, moved_bytes: int, copied: Copied | None) -> float:
        """Return the seconds that a change takes which moves so many bytes.

        ``copied`` are the newest copies of all ranks, if any were taken.
        """
        rate = self._rate
        if rate is None and copied is not None and copied.bytes and copied.seconds > 0:
            rate = copied.bytes / copied.seconds
        return self._fixed + moved_bytes / (rate or BYTES_PER_SECOND)


def bytes_held(making: Making, plan: Plan, away: Collection[Seat]) -> int:
    """Return the bytes that move when new processes take some seats of a plan, and others stay."""
    stays = {seat: seat for seat in plan.seats if seat not in away}
    seating = Seating(stays, frozenset(), {}, {})
    return diff(making.blank.architecture, plan, plan, making.workload, seating).bytes
