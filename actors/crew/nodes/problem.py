"""Gangs and nodes as numbers, for a search that counts exactly."""

import sys
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

SCALE = 10_000
"""Ray counts resources in ten-thousandths; whole numbers of them add up exactly."""

Amount = tuple[int, ...]
"""Of each resource, in ten-thousandths."""

Cost = tuple[int, int, int]
"""Gangs away from their node, pairs of replicas that meet on one, neighbouring stages on two."""


@dataclass(frozen=True, slots=True)
class Item:
    """A gang: what it needs, the nodes that may and, of those, the nodes that should have it."""

    replica: int
    stage: int
    need: Amount
    nodes: tuple[int, ...]
    wanted: frozenset[int]

    @property
    def gang(self) -> tuple[int, int]:
        """The gang, as its neighbours name it: its replica and stage."""
        return self.replica, self.stage


@dataclass(frozen=True, slots=True)
class Problem:
    """Gangs, and what nodes have; amounts are of the same resources in the same order."""

    items: tuple[Item, ...]
    room: tuple[Amount, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """Items with the fewest nodes first, then the largest, then as they come."""
        most = self.most

        def key(number: int) -> tuple[int, float, tuple[int, int]]:
            item = self.items[number]
            size = max((need / all_ for need, all_ in zip(item.need, most, strict=True)), default=0)
            return len(item.nodes), -size, item.gang

        return tuple(sorted(range(len(self.items)), key=key))

    @property
    def most(self) -> Amount:
        """The most that any node has of each resource, at least 1."""
        return tuple(max(1, *column) for column in zip(*self.room, strict=True))

    @property
    def kinds(self) -> tuple[int, ...]:
        """A number for each item, equal where items differ in nothing but where they should be."""
        return _numbered((item.need, item.nodes) for item in self.items)

    @property
    def classes(self) -> tuple[int, ...]:
        """A number for each node, equal where the same items may go there."""
        may: dict[int, list[int]] = defaultdict(list)
        for kind, item in dict(zip(self.kinds, self.items, strict=True)).items():
            for node in item.nodes:
                may[node].append(kind)
        return _numbered(tuple(may[node]) for node in range(len(self.room)))

    @property
    def twins(self) -> tuple[int, ...]:
        """A number for each node, equal where nodes are alike, and wanted by the same items."""
        should: dict[int, list[int]] = defaultdict(list)
        for number, item in enumerate(self.items):
            for node in item.wanted:
                should[node].append(number)
        nodes = zip(self.classes, self.room, strict=True)
        return _numbered((each, tuple(should[node])) for node, each in enumerate(nodes))

    @property
    def least(self) -> Cost:
        """A cost that no placement is below."""
        moved = sum(bool(item.wanted) and not item.wanted & {*item.nodes} for item in self.items)
        replicas = len({item.replica for item in self.items})
        nodes = len({node for item in self.items for node in item.nodes})
        each, more = divmod(replicas, max(nodes, 1))
        shared = more * _pairs(each + 1) + (nodes - more) * _pairs(each)
        return moved, shared, sum(self._least_apart())

    def _least_apart(self) -> Iterator[int]:
        """Yield for each replica how often its stages change the node at the least.

        Replicas ask alike, unless parts of some are placed already: each answer is found once.
        """
        needs: dict[int, list[Amount]] = defaultdict(list)
        for item in self.items:
            needs[item.replica].append(item.need)
        for stages, count in Counter(map(tuple, needs.values())).items():
            together = max((_most_of(stages, amount) for amount in self.room), default=0)
            yield count * (-(-len(stages) // max(together, 1)) - 1)


def counted(amounts: Mapping[str, float], names: Sequence[str]) -> Amount:
    """Return amounts of named resources in ten-thousandths."""
    return tuple(round(amounts.get(name, 0.0) * SCALE) for name in names)


def fits(need: Amount, free: Sequence[int]) -> bool:
    """Tell whether there is as much as is needed."""
    return all(asked <= left for asked, left in zip(need, free, strict=True))


def times(need: Amount, free: Sequence[int]) -> int:
    """Return how often a need fits; what needs nothing fits without end."""
    each = (left // asked for asked, left in zip(need, free, strict=True) if asked)
    return min(each, default=sys.maxsize)


def _most_of(needs: Sequence[Amount], free: Amount) -> int:
    """Return a number of needs that no more of them fit together."""
    found = len(needs)
    for column, left in zip(zip(*needs, strict=True), free, strict=True):
        found = min(found, sum(taken <= left for taken in accumulate(sorted(column))))
    return found


def _pairs(count: int) -> int:
    return count * (count - 1) // 2


def _numbered(keys: Iterable[Hashable]) -> tuple[int, ...]:
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(key, len(numbers)) for key in keys)
