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
from moe.config.ranges import band_of, position
from moe.config.tensors import TensorSlice
from moe.errors import PlanError
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.links import most_particular
from moe.planning.moves.holdings import HeldTensor, StateBytes, rank_tensors
from moe.planning.moves.hungarian import Costs, assign
from moe.planning.plan.plan import Plan

HeldTensors = Sequence[Mapping[str, HeldTensor]]
"""For each rank of a replica, what it holds of each tensor."""


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
        self._bytes = StateBytes.of(workload)
        for plan in (old, new):
            plan.check_model(config)
            _check_devices(plan)
        self._devices = {device.name: device for device in inventory.devices}
        self._rows = {name: row for row, name in enumerate(_names(new))}
        self._columns = {name: column for column, name in enumerate(self._devices)}
        for name in self._rows:
            inventory.device(name)
        narrow = self._bytes.narrow
        held_tensors = rank_tensors(config, new, narrow)
        self._kept = self._overlap(old, new, rank_tensors(config, old, narrow), held_tensors)
        self._worth = self._kept * (len(self._rows) + 1)
        for name, row in self._rows.items():
            self._worth[row, self._columns[name]] += 1
        names = self._renamed(inventory)
        self.plan = _with_devices(new, names)
        kept = sum(int(self._kept[self._rows[a], self._columns[b]]) for a, b in names.items())
        self.moved_bytes = self._needed(held_tensors, new.replicas) - kept

    def _overlap(self, old: Plan, new: Plan, before: HeldTensors, after: HeldTensors) -> Costs:
        """Return the bytes [seats, devices] that each seat needs and each device holds."""
        kept = np.zeros((len(self._rows), len(self._columns)), dtype=np.int64)
        for seat, wanted in zip(new.seats.of_replica(0), after, strict=True):
            rows = [self._rows[name] for name in new.rank(seat).devices]
            for other, held in zip(old.seats.of_replica(0), before, strict=True):
                named = enumerate(old.rank(other).devices)
                there = {copy: self._columns[name] for copy, name in named if name in self._columns}
                common = wanted.keys() & held.keys()
                if common and there:
                    pairs = Counter(
                        (_unnamed(wanted[name]), _unnamed(held[name])) for name in common
                    )
                    table = self._common_bytes(pairs, new.replicas, old.replicas)
                    kept[np.ix_(rows, list(there.values()))] = table[:, list(there)]
        return kept

    def _common_bytes(
        self, pairs: Mapping[tuple[HeldTensor, HeldTensor], int], replicas: int, copies: int
    ) -> Costs:
        """Return the bytes [replicas, copies] that replicas of two ranks have in common."""
        total = np.zeros((replicas, copies), dtype=np.int64)
        for (wanted, held), count in pairs.items():
            band = band_of(wanted.part, held.part)
            if band is None:
                continue
            for size, cut in self._states(wanted):
                if cut:
                    start, stop = _spans(wanted, band)
                    low, high = _spans(held, band)
                    both = np.minimum(stop[:, None], high) - np.maximum(start[:, None], low)
                    total += count * size * both.clip(min=0)
                else:
                    total += count * size * band.elements
        return total

    def _needed(self, held_tensors: HeldTensors, replicas: int) -> int:
        """Return the bytes of all that the new plan holds."""
        return sum(
            size * tensor.part.elements * (1 if cut else replicas)
            for held in held_tensors
            for tensor in held.values()
            for size, cut in self._states(tensor)
        )

    def _states(self, tensor: HeldTensor) -> list[tuple[int, bool]]:
        """Return the bytes of an element of each state, and whether the replicas cut that."""
        owned = bool(tensor.edges)
        return [
            (size, state in self._bytes.cut and owned)
            for state, size in self._bytes.of_element(tensor.part).items()
        ]

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


def _unnamed(tensor: HeldTensor) -> HeldTensor:
    """Return the same without its name, layer and expert: tensors of many layers are then equal."""
    role = replace(tensor.part.role, layer=None, expert=None)
    return replace(tensor, part=replace(tensor.part, name="", role=role))


def _spans(tensor: HeldTensor, band: TensorSlice) -> tuple[Costs, Costs]:
    """Return where the range of each replica begins and ends in a band."""
    ends = np.array([position(tensor.part, band, edge) for edge in tensor.edges], dtype=np.int64)
    return ends[:-1], ends[1:]


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
