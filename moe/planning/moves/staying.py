"""Which processes of an old plan take which seats of a new one, so that the fewest bytes move.

A process stays on its node, and a gang is on one node, so the processes that take seats of one gang
are of one node. Which seat of a gang each process of a node takes is an assignment problem, and
which gang gets which node is another over the bytes that the first keeps (``moves.hungarian``).
Where gangs are single ranks that is exact. Else a node gives the processes that its gang leaves
over to another gang, round after round.

Of equal bytes more processes stay: a new one has to be started.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from moe.config.model import ModelConfig
from moe.planning.counts.workload import Workload
from moe.planning.moves.holdings import StateBytes
from moe.planning.moves.hungarian import assign
from moe.planning.moves.overlap import Overlap
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat

Gang = Sequence[Seat]
Choice = tuple[int, dict[Seat, Seat]]
"""What a choice is worth, and the old seats by new seat."""


def staying(
    config: ModelConfig, old: Plan, new: Plan, workload: Workload, nodes: Mapping[Seat, str]
) -> dict[Seat, Seat]:
    """Return the old seat of the process that takes each new seat; others get new processes.

    ``nodes`` has the node of each old seat whose process may stay. It stays on a device of the kind
    that it has.
    """
    return _Staying(config, old, new, workload).chosen(nodes)


class _Staying:
    """What processes are worth in the seats of a new plan."""

    def __init__(self, config: ModelConfig, old: Plan, new: Plan, workload: Workload) -> None:
        self._old = old
        self._new = new
        kept = Overlap(config, old, new, StateBytes.of(workload)).kept
        self._worth = kept * (len(new.seats) + 1) + 1

    def chosen(self, nodes: Mapping[Seat, str]) -> dict[Seat, Seat]:
        """Return who stays where."""
        stays, free = dict[Seat, Seat](), dict(nodes)
        gangs = list(_gangs(self._new))
        while free and gangs:
            found = self._round(gangs, _blocks(free, single=self._new.gang_size == 1))
            if not found:
                break
            stays |= found
            taken = set(found.values())
            free = {seat: node for seat, node in free.items() if seat not in taken}
            gangs = [gang for gang in gangs if not any(seat in found for seat in gang)]
        return stays

    def _round(self, gangs: Sequence[Gang], blocks: Sequence[Gang]) -> dict[Seat, Seat]:
        """Give each gang the processes of one block at most, and no block to two gangs."""
        choices = [[self._within(gang, block) for block in blocks] for gang in gangs]
        worth = np.zeros((len(gangs), len(blocks) + len(gangs)), dtype=np.int64)
        worth[:, : len(blocks)] = [[value for value, _ in row] for row in choices]
        stays = dict[Seat, Seat]()
        for row, column in zip(choices, assign(-worth), strict=True):
            if column < len(row):
                stays |= row[column][1]
        return stays

    def _within(self, gang: Gang, block: Gang) -> Choice:
        """Return the best seats of a gang for the processes of a block, each used once at most."""
        worth = np.zeros((len(gang), len(block) + len(gang)), dtype=np.int64)
        for row, seat in enumerate(gang):
            for column, was in enumerate(block):
                worth[row, column] = self._value(seat, was)
        chosen = list(enumerate(assign(-worth)))
        stays = {gang[row]: block[column] for row, column in chosen if column < len(block)}
        stays = {seat: was for seat, was in stays.items() if self._value(seat, was) > 0}
        return sum(self._value(seat, was) for seat, was in stays.items()), stays

    def _value(self, seat: Seat, was: Seat) -> int:
        """Return what a process is worth in a seat; below 0 where it is on another device."""
        if self._new.rank(seat).kind != self._old.rank(was).kind:
            return -1
        return int(self._worth[self._new.seats.rank(seat), self._old.seats.rank(was)])


def _gangs(plan: Plan) -> Iterator[Gang]:
    for replica in range(plan.replicas):
        for stage in range(len(plan.stages)):
            yield plan.seats.of_stage(stage, replica)


def _blocks(free: Mapping[Seat, str], single: bool) -> list[Gang]:
    """Return the processes node by node, or one by one."""
    if single:
        return [[seat] for seat in free]
    nodes = defaultdict[str, list[Seat]](list)
    for seat, node in free.items():
        nodes[node].append(seat)
    return list(nodes.values())
