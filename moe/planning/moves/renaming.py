"""The plan that moves least, among plans that are equal.

A plan stays equal where its devices change names with devices like them: of one kind within a node,
and all that it uses of a node with devices like them of another node, if each has the links of the
other. The bytes that a seat of the plan lacks on a device depend on those two alone, so finding the
fewest bytes is an assignment problem (``moe.planning.moves.hungarian``): for each pair of nodes
one of seats to devices, and one of nodes to nodes, whose costs are the sums of those. Where bytes
are equal, names stay.

    old plan: layers 0-1 on a/0, 2-3 on a/1        bytes kept     a/0   a/1
    new plan: layers 0-2 on a/1, 3 on a/0          seat 0 (0-2)    2     1
                                                   seat 1 (3)      0     1
    kept on the devices named: 1 + 0; on the others: 2 + 1, so the devices change names
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from moe.config.model import ModelConfig
from moe.errors import PlanError
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.links import most_particular
from moe.planning.moves.holdings import StateBytes
from moe.planning.moves.hungarian import Costs, assign
from moe.planning.moves.overlap import Overlap
from moe.planning.moves.seating import device_of
from moe.planning.plan.plan import Plan


def nearest(
    config: ModelConfig, old: Plan, new: Plan, inventory: Inventory, workload: Workload
) -> Plan:
    """Return ``new`` on such devices of the inventory, equal to its own, that least bytes move."""
    return _Renaming(config, old, new, inventory, workload).plan


def least_moving(
    config: ModelConfig,
    old: Plan,
    candidates: Iterable[Plan],
    inventory: Inventory,
    workload: Workload,
) -> Plan:
    """Return the candidate that moves least, renamed so; of those that move as much, the first."""
    renamed = [_Renaming(config, old, new, inventory, workload) for new in candidates]
    if not renamed:
        raise PlanError("asked which of no plans moves least; give at least one")
    return min(renamed, key=lambda each: each.moved_bytes).plan


class _Renaming:
    """The plan under its new names, and the bytes that move to it."""

    def __init__(
        self, config: ModelConfig, old: Plan, new: Plan, inventory: Inventory, workload: Workload
    ) -> None:
        for plan in (old, new):
            plan.check_model(config)
            _check_devices(plan)
        self._devices = {device.name: device for device in inventory.devices}
        self._rows = {name: row for row, name in enumerate(_names(new))}
        self._columns = {name: column for column, name in enumerate(self._devices)}
        for name in self._rows:
            inventory.device(name)
        overlap = Overlap(config, old, new, StateBytes.of(workload))
        self._kept = self._by_device(old, new, overlap.kept)
        self._worth = self._kept * (len(self._rows) + 1)
        for name, row in self._rows.items():
            self._worth[row, self._columns[name]] += 1
        names = self._renamed(inventory)
        self.plan = _with_devices(new, names)
        kept = sum(int(self._kept[self._rows[a], self._columns[b]]) for a, b in names.items())
        self.moved_bytes = overlap.needed - kept

    def _by_device(self, old: Plan, new: Plan, kept: Costs) -> Costs:
        """Return the bytes [seats, devices] that each seat needs and each device holds."""
        found = np.zeros((len(self._rows), len(self._columns)), dtype=np.int64)
        rows = [self._rows[device_of(new, seat)] for seat in new.seats]
        names = enumerate(device_of(old, seat) for seat in old.seats)
        there = {rank: self._columns[name] for rank, name in names if name in self._columns}
        found[np.ix_(rows, list(there.values()))] = kept[:, list(there)]
        return found

    def _renamed(self, inventory: Inventory) -> dict[str, str]:
        """Return the device that stands for each device of the new plan."""
        loads: dict[str, list[Device]] = defaultdict(list)
        for name in self._rows:
            loads[self._devices[name].node].append(self._devices[name])
        nodes, names = inventory.nodes(), dict[str, str]()
        for alike in _link_classes(inventory):
            used = [node for node in alike if node in loads]
            if not used:
                continue
            found = [[self._within(loads[node], nodes[other]) for other in alike] for node in used]
            never = 1 + sum(max(each[0] for each in row if each) for row in found)
            costs = [[-each[0] if each else never for each in row] for row in found]
            for row, column in zip(found, assign(np.array(costs, dtype=np.int64)), strict=True):
                chosen = row[column]
                names |= chosen[1] if chosen else {}
        return names

    def _within(
        self, load: Sequence[Device], devices: Sequence[Device]
    ) -> tuple[int, dict[str, str]] | None:
        """Return the worth of a load on the devices of one node, and the names that have it."""
        wanted, offered = _by_sort(load), _by_sort(devices)
        worth, names = 0, dict[str, str]()
        for sort, places in wanted.items():
            there = offered.get(sort, [])
            if len(there) < len(places):
                return None
            block = self._worth[
                np.ix_(
                    [self._rows[each] for each in places], [self._columns[each] for each in there]
                )
            ]
            chosen = assign(-block) if block.any() else range(len(places))
            worth += sum(int(block[row, column]) for row, column in enumerate(chosen))
            names |= {place: there[column] for place, column in zip(places, chosen, strict=True)}
        return worth, names


def _by_sort(devices: Sequence[Device]) -> dict[object, list[str]]:
    sorts: dict[object, list[str]] = defaultdict(list)
    for device in devices:
        sorts[device.traits].append(device.name)
    return dict(sorts)


def _link_classes(inventory: Inventory) -> list[list[str]]:
    """Return the nodes in groups within which any two may change places and no link notices."""
    nodes = list(inventory.nodes())
    named = {name for link in inventory.links for name in link.nodes}

    def listed(one: str, other: str) -> tuple[float, float] | None:
        link = most_particular(inventory.links, one, other)
        return None if link is None else (link.bytes_per_second, link.latency_seconds)

    def alike(one: str, other: str) -> bool:
        if not named & {one, other}:
            return True
        others = [node for node in nodes if node not in (one, other)]
        return listed(one, one) == listed(other, other) and all(
            listed(one, node) == listed(other, node) for node in others
        )

    groups: list[list[str]] = []
    for node in nodes:
        group = next((each for each in groups if alike(each[0], node)), None)
        if group is None:
            groups.append([node])
        else:
            group.append(node)
    return groups


def _names(plan: Plan) -> list[str]:
    return [name for stage in plan.stages for rank in stage.ranks for name in rank.devices]


def _check_devices(plan: Plan) -> None:
    name, count = Counter(_names(plan)).most_common(1)[0]
    if count > 1:
        raise PlanError(
            f"the plan names device {name} for {count} seats, so devices cannot change names; "
            "give every rank, in every replica, a device of its own"
        )


def _with_devices(plan: Plan, names: Mapping[str, str]) -> Plan:
    if all(name == other for name, other in names.items()):
        return plan
    stages = []
    for stage in plan.stages:
        ranks = (
            replace(rank, devices=tuple(names[name] for name in rank.devices))
            for rank in stage.ranks
        )
        stages.append(replace(stage, ranks=tuple(ranks)))
    return replace(plan, stages=tuple(stages))
