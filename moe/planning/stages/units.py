"""Groups devices into units: a unit takes one stage, with a gang in each replica.

This is a rule, not a search. Gangs are formed from devices of one kind on one node, then of one
kind across nodes, then of any kinds, whose members use the routing choices of their leader; fast
devices are grouped with fast devices. Devices that cannot communicate form no gang. A unit is
formed of equal gangs, one for each replica; replicas are consecutive in the inventory. The
remaining gangs form units of different speeds, but with equal kinds and needs member by member,
because a plan states these once for all replicas. The order of units over the stages is searched
(``moe.planning.search.search``).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from moe.planning.devices.inventory import Device, Inventory

Gang = tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """The devices of one stage: its gang in each replica."""

    gangs: tuple[Gang, ...]

    @property
    def columns(self) -> tuple[tuple[Device, ...], ...]:
        """The devices of each member of the gang, one in each replica."""
        return tuple(zip(*self.gangs, strict=True))

    @property
    def nodes(self) -> tuple[tuple[str, ...], ...]:
        """The nodes of each gang."""
        return tuple(tuple(device.node for device in gang) for gang in self.gangs)


def form_gangs(inventory: Inventory, size: int) -> list[Gang]:
    """Return as many gangs of a size as can be formed, in the order of the inventory."""
    local, left = _pooled(inventory, inventory.devices, size, lambda each: (each.kind, each.node))
    alike, left = _pooled(inventory, left, size, lambda each: each.kind)
    mixed, _ = _pooled(inventory, left, size, lambda each: None)
    order = {device.name: number for number, device in enumerate(inventory.devices)}
    formed = [gang for gang in local + alike + mixed if _connected(inventory, gang)]
    return sorted(formed, key=lambda gang: min(order[device.name] for device in gang))


def form_units(gangs: Sequence[Gang], replicas: int, stages: int) -> list[Unit]:
    """Return units of ``replicas`` gangs each; of equal units at most ``stages``."""
    kinds: dict[Hashable, list[Gang]] = defaultdict(list)
    for gang in gangs:
        kinds[tuple(device.traits for device in gang)].append(gang)
    units: list[Unit] = []
    left: dict[Hashable, list[Gang]] = defaultdict(list)
    for alike in kinds.values():
        count = min(len(alike) // replicas, stages)
        units += [
            Unit(tuple(alike[number::count][:replicas]) if count else ()) for number in range(count)
        ]
        used = count * replicas if count < stages else len(alike)
        for gang in alike[used:]:
            left[tuple((device.kind, device.needs) for device in gang)].append(gang)
    for like in left.values():
        full = len(like) // replicas * replicas
        units += [Unit(tuple(like[start : start + replicas])) for start in range(0, full, replicas)]
    return units


def alike_gangs(inventory: Inventory, gangs: Sequence[Gang]) -> list[list[Gang]]:
    """Return the gangs of each kind: equal devices with equal distribution over nodes.

    If a link names a node, that node is distinguished from others.
    """
    named = {node for link in inventory.links for node in link.nodes}
    found: dict[Hashable, list[Gang]] = defaultdict(list)
    for gang in gangs:
        order = list(dict.fromkeys(device.node for device in gang))
        spread = tuple(
            device.node if device.node in named else order.index(device.node) for device in gang
        )
        found[tuple(device.traits for device in gang), spread].append(gang)
    return list(found.values())


def unit_links(inventory: Inventory, unit: Unit) -> Hashable:
    """Return a key by which the links inside units are compared."""
    within = {
        (one.link_key, other.link_key): (one, other)
        for gang in unit.gangs
        for one, other in combinations({device.link_key: device for device in gang}.values(), 2)
    }
    alone = {gang[0].link_key: (gang[0], gang[1]) for gang in unit.gangs if len(gang) > 1}
    across = {
        (one[0].link_key, other[0].link_key): (one[0], other[0])
        for one, other in pairwise(unit.gangs)
    }
    found = ((inventory.link(*pair) for pair in pairs.values()) for pairs in (within, across))
    gangs = frozenset(inventory.link(*pair) for pair in alone.values())
    return gangs, *map(frozenset, found)


def _connected(inventory: Inventory, gang: Gang) -> bool:
    by_links = {device.link_key: device for device in gang}
    counts = Counter(device.link_key for device in gang)
    pairs = [(by_links[key], by_links[key]) for key, count in counts.items() if count > 1]
    pairs += combinations(by_links.values(), 2)
    return all(inventory.link(one, other).bytes_per_second for one, other in pairs)


def _pooled(
    inventory: Inventory,
    devices: Sequence[Device],
    size: int,
    key: Callable[[Device], Hashable],
) -> tuple[list[Gang], list[Device]]:
    """Form gangs of devices with equal keys, fast with fast; return them and the remaining
    devices.
    """
    pools: dict[Hashable, list[Device]] = defaultdict(list)
    for device in devices:
        pools[key(device)].append(device)
    made: list[Gang] = []
    left: list[Device] = []
    for pool in pools.values():
        unlike = {device.traits: device for device in pool}
        if len(unlike) > 1:
            speeds = {traits: inventory.strength(device) for traits, device in unlike.items()}
            pool.sort(key=lambda device: -speeds[device.traits])
        full = len(pool) // size * size
        made += [tuple(pool[start : start + size]) for start in range(0, full, size)]
        left += pool[full:]
    return made, left
