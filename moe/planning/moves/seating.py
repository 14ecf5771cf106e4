"""Which ranks of an old plan are still there, and which seats of a new plan they take."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from moe.planning.devices.inventory import Inventory
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat


@dataclass(frozen=True, slots=True)
class Seating:
    """How the ranks of an old plan become those of a new one.

    ``stays`` has the old seat of the rank that takes a seat of the new plan; a new seat that is not
    in it is taken by a rank that holds nothing. Ranks of the old seats ``lost`` are gone with all
    they held. Every other rank can give what it holds, also one that has no seat in the new plan.
    ``copied`` says for an old seat which rank gives in its place, by the old seat of that: the one
    that holds its copy, or, for a rank that must go back to its own copy, itself. A copy has what
    the rank alone held, so of the weights what it owned. A seat that is lost and not copied gives
    nothing.
    ``old_nodes`` and ``new_nodes`` say on which node a seat is, as far as that is known.
    """

    stays: Mapping[Seat, Seat]
    lost: frozenset[Seat]
    old_nodes: Mapping[Seat, str]
    new_nodes: Mapping[Seat, str]
    copied: Mapping[Seat, Seat] = field(default_factory=dict)

    def giver(self, seat: Seat) -> Seat | None:
        """Return the old seat of the rank that gives what an old seat held; None where none can."""
        if seat in self.copied:
            return self.copied[seat]
        return None if seat in self.lost else seat


def seated_by_device(old: Plan, new: Plan, inventory: Inventory | None = None) -> Seating:
    """Return the seating in which every device keeps its rank.

    A device with several ranks keeps them in the order of their seats. An inventory says which
    devices are left and on which nodes; PlanError where the new plan uses one that it does not
    list.
    """
    free: dict[str, list[Seat]] = defaultdict(list)
    for seat in old.seats:
        free[device_of(old, seat)].append(seat)
    stays = {
        seat: free[device_of(new, seat)].pop(0)
        for seat in new.seats
        if free.get(device_of(new, seat))
    }
    if inventory is None:
        return Seating(stays, frozenset(), {}, {})
    new_nodes = {seat: inventory.device(device_of(new, seat)).node for seat in new.seats}
    nodes = {device.name: device.node for device in inventory.devices}
    left = {seat: device_of(old, seat) for seat in old.seats if device_of(old, seat) in nodes}
    return Seating(
        stays=stays,
        lost=frozenset(seat for seat in old.seats if seat not in left),
        old_nodes={seat: nodes[name] for seat, name in left.items()},
        new_nodes=new_nodes,
    )


def device_of(plan: Plan, seat: Seat) -> str:
    """Return the device that a plan names for a seat."""
    return plan.stages[seat.stage].ranks[seat.member].devices[seat.replica]
