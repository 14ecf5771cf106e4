"""The search for a placement: in depth, the best kept.

Each item tries nodes in the order of what it adds to the cost, then of how little it leaves there.
A branch is cut where it costs as much as the best placement so far, where nodes cannot take as many
items of a kind as are left, and where the same items were seen to fail on the same free amounts. Of
nodes that are alike and empty one is tried. So a placement is found wherever there is one, and the
best is proved, unless the cluster is so large that the search ends before (``MOST_WORK``).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from operator import add

from actors.crew.nodes.problem import Cost, Item, Problem, fits, times

MOST_WORK = 1_000_000
"""Nodes looked at before a search ends with what it has: two or three seconds."""

_STEP = 20
"""What a step costs beside looking at nodes."""


@dataclass(frozen=True, slots=True)
class Found:
    """The node of each item, and the cost; or None, with the nodes of as many as were placed.

    ``proved`` is false where the search ended before its end.
    """

    nodes: tuple[int, ...] | None
    cost: Cost
    filled: dict[int, int]
    proved: bool


@dataclass(slots=True)
class _Step:
    """An item on its way through the nodes it may take; ``open`` where below it may be more."""

    number: int
    choices: Iterator[int]
    taken: tuple[int, Cost] | None = None
    open: bool = False


def search(problem: Problem, most_work: int = MOST_WORK) -> Found:
    """Return the best placement, or what was placed where each took its best."""
    found = _Search(problem, most_work).found()
    return found if found.nodes is not None else replace(found, filled=_Search(problem, 0).greedy())


class _Search:
    def __init__(self, problem: Problem, most_work: int) -> None:
        self._problem, self._left_work = problem, most_work
        self._order, self._most = problem.order, problem.most
        self._kinds, self._classes, self._twins = problem.kinds, problem.classes, problem.twins
        self._least = problem.least
        self._free = [list(amount) for amount in problem.room]
        self._on: list[Counter[int]] = [Counter() for _ in problem.room]
        self._at: dict[tuple[int, int], int] = {}
        self._waiting = Counter(self._kinds)
        self._samples = dict(zip(self._kinds, problem.items, strict=True))
        self._cost: Cost = (0, 0, 0)
        self._best: tuple[Cost, tuple[int, ...]] | None = None
        self._dead: set[tuple[object, ...]] = set()

    def found(self) -> Found:
        """Go every way, or until the work is too much."""
        ended = self._walk()
        if self._best is None:
            return Found(None, (0, 0, 0), {}, ended)
        cost, nodes = self._best
        return Found(nodes, cost, dict(enumerate(nodes)), ended or cost == self._least)

    def greedy(self) -> dict[int, int]:
        """Place what finds a node, one after the other, and never go back."""
        for number in self._order:
            step = _Step(number, iter(self._choices(self._problem.items[number])))
            for node in islice(step.choices, 1):
                self._take(step, node)
        return self._placed()

    def _walk(self) -> bool:
        first = self._step(0)
        steps = [first] if first else []
        while steps and self._left_work > 0:
            step = steps[-1]
            self._leave(step)
            node = next(step.choices, None)
            if node is None:
                self._close(steps)
                continue
            self._take(step, node)
            if self._best is not None and self._cost >= self._best[0]:
                step.open = True
            elif len(steps) == len(self._order):
                step.open = True
                if self._keep():
                    return True
            elif below := self._step(len(steps)):
                steps.append(below)
        return not steps

    def _step(self, depth: int) -> _Step | None:
        """Begin the next item, unless it or one after it is known to find no node."""
        if not self._possible() or (self._dead and self._key(depth) in self._dead):
            return None
        number = self._order[depth]
        return _Step(number, iter(self._choices(self._problem.items[number])))

    def _close(self, steps: list[_Step]) -> None:
        """End an item that tried all; where none of its ways led anywhere, remember that."""
        step = steps.pop()
        if not step.open:
            self._dead.add(self._key(len(steps)))
        elif steps:
            steps[-1].open = True

    def _keep(self) -> bool:
        """Keep a placement better than any before; tell whether none can be better still."""
        placed = self._placed()
        self._best = self._cost, tuple(placed[number] for number in range(len(placed)))
        return self._cost == self._least

    def _placed(self) -> dict[int, int]:
        items = enumerate(self._problem.items)
        return {number: self._at[item.gang] for number, item in items if item.gang in self._at}

    def _choices(self, item: Item) -> list[int]:
        self._left_work -= len(item.nodes) + _STEP
        found, empty = [], set[int]()
        for node in item.nodes:
            free = self._free[node]
            if not fits(item.need, free):
                continue
            if not self._on[node]:
                if self._twins[node] in empty:
                    continue
                empty.add(self._twins[node])
            over = zip(item.need, free, self._most, strict=True)
            left = sum((have - need) / most for need, have, most in over)
            found.append((self._added(item, node), left, node))
        return [node for _, _, node in sorted(found)]

    def _added(self, item: Item, node: int) -> Cost:
        """Return what an item on a node adds to the cost, beside those placed before."""
        there = self._on[node]
        beside = (self._at.get((item.replica, item.stage + way)) for way in (-1, 1))
        return (
            int(bool(item.wanted) and node not in item.wanted),
            0 if item.replica in there else len(there),
            sum(other is not None and other != node for other in beside),
        )

    def _take(self, step: _Step, node: int) -> None:
        item = self._problem.items[step.number]
        step.taken = node, self._cost
        moved, shared, apart = map(add, self._cost, self._added(item, node))
        self._cost = moved, shared, apart
        self._shift(node, item, 1)
        self._at[item.gang] = node
        self._waiting[self._kinds[step.number]] -= 1

    def _leave(self, step: _Step) -> None:
        if step.taken is None:
            return
        node, self._cost = step.taken
        step.taken = None
        item = self._problem.items[step.number]
        self._shift(node, item, -1)
        del self._at[item.gang]
        self._waiting[self._kinds[step.number]] += 1

    def _shift(self, node: int, item: Item, way: int) -> None:
        free, there = self._free[node], self._on[node]
        for resource, need in enumerate(item.need):
            free[resource] -= way * need
        there[item.replica] += way
        if not there[item.replica]:
            del there[item.replica]

    def _possible(self) -> bool:
        """Tell whether nodes can take as many items of each kind as wait, other kinds aside."""
        for kind, count in self._waiting.items():
            item = self._samples[kind]
            for node in item.nodes if count else ():
                count -= times(item.need, self._free[node])
                self._left_work -= 1
                if count <= 0:
                    break
            if count > 0:
                return False
        return True

    def _key(self, depth: int) -> tuple[object, ...]:
        """Return what decides whether the items from here on find nodes."""
        nodes = sorted(zip(self._classes, map(tuple, self._free), strict=True))
        self._left_work -= len(nodes)
        return depth, *nodes
