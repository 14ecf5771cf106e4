"""What changes owner between two plans: the spans of tensors that devices need and do not hold.

A device is known by its name: a rank that stays on its device keeps what lies there, whatever its
number. Each element that a device lacks is moved to it once, so no other list of moves has fewer
bytes. Who gives it is chosen among those who hold it: one on the same node, then the one that has
given least so far.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from moe.config.model import ModelConfig
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.moves.holdings import (
    NOTHING,
    Holding,
    Interval,
    Span,
    State,
    holdings,
    missing,
    state_sizes,
    tensor_table,
)
from moe.planning.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class Move:
    """A span that ``device`` needs under the new plan, and the device that holds it under the old.

    ``source`` is None where no device holds it any more: it is read from a checkpoint. ``size`` is
    in bytes.
    """

    device: str
    source: str | None
    state: State
    span: Span
    size: int


@dataclass(frozen=True, slots=True)
class Difference:
    """All moves from one plan to another, device by device, and what they come to."""

    moves: tuple[Move, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all moves."""
        return sum(move.size for move in self.moves)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights."""
        return sum(move.size for move in self.moves if move.state == "weights")

    @property
    def optimizer_bytes(self) -> int:
        """Bytes of the optimiser's states."""
        return sum(move.size for move in self.moves if move.state == "optimizer")

    @property
    def lost_bytes(self) -> int:
        """Bytes of what no device holds any more."""
        return sum(move.size for move in self.moves if move.source is None)

    @property
    def received(self) -> Mapping[str, int]:
        """Bytes that come to each device, from others or from a checkpoint."""
        total = Counter[str]()
        for move in self.moves:
            total[move.device] += move.size
        return total

    @property
    def given(self) -> Mapping[str, int]:
        """Bytes that each device gives to others."""
        total = Counter[str]()
        for move in self.moves:
            if move.source is not None:
                total[move.source] += move.size
        return total


def diff(
    config: ModelConfig,
    old: Plan,
    new: Plan,
    workload: Workload,
    inventory: Inventory | None = None,
) -> Difference:
    """Return the moves that turn what devices hold under ``old`` into what ``new`` asks of them.

    The workload says how many bytes a weight and its optimiser states have, and how far ZeRO
    spreads them. An inventory says which devices share a node; devices of the old plan that it does
    not list are lost with all they held.
    """
    old.check_model(config)
    new.check_model(config)
    before, after = holdings(config, old, workload), holdings(config, new, workload)
    nodes: dict[str, str] = {}
    if inventory is not None:
        nodes = {name: inventory.device(name).node for name in after}
        nodes |= {device.name: device.node for device in inventory.devices}
        before = {name: held for name, held in before.items() if name in nodes}
    table, sizes, givers = tensor_table(config), state_sizes(workload), _Givers(before, nodes)
    moves = []
    for device, state, name, span in _lacking(before, after):
        for source, (start, stop) in givers.split(device, state, name, span):
            size = sizes[state] * (stop - start)
            givers.given[source] += size
            moves.append(Move(device, source, state, Span(table[name], start, stop), size))
    return Difference(tuple(moves))


def _lacking(
    before: Mapping[str, Holding], after: Mapping[str, Holding]
) -> Iterator[tuple[str, State, str, Interval]]:
    states: tuple[State, ...] = ("weights", "optimizer")
    for device, wanted in after.items():
        held = before.get(device, NOTHING)
        for state in states:
            for name, spans in wanted.of(state).items():
                for span in missing(spans, held.of(state).get(name, ())):
                    yield device, state, name, span


class _Givers:
    """Who holds what, and how many bytes each has given so far."""

    def __init__(self, before: Mapping[str, Holding], nodes: Mapping[str, str]) -> None:
        self.given: dict[str | None, int] = defaultdict(int)
        self._nodes = nodes
        self._holders: dict[tuple[State, str], list[tuple[int, int, str]]] = defaultdict(list)
        for device, held in before.items():
            for name, spans in held.weights.items():
                self._holders["weights", name] += [(*span, device) for span in spans]
            for name, spans in held.optimizer.items():
                self._holders["optimizer", name] += [(*span, device) for span in spans]

    def split(
        self, device: str, state: State, name: str, span: Interval
    ) -> Iterator[tuple[str | None, Interval]]:
        """Yield the pieces of a span with the device that gives each, in order."""
        low, high = span
        near = [each for each in self._holders[state, name] if each[0] < high and low < each[1]]
        ends = {end for start, stop, _ in near for end in (start, stop) if low < end < high}
        source, begin = None, low
        for start in sorted(ends | {low}):
            found = self._choose(device, source, near, start)
            if start > low and found != source:
                yield source, (begin, start)
                begin = start
            source = found
        yield source, (begin, high)

    def _choose(
        self, device: str, last: str | None, near: Sequence[tuple[int, int, str]], at: int
    ) -> str | None:
        """Return who gives the elements from a place on; who gave those before goes on if equal."""
        node = self._nodes.get(device)
        holders = [each for start, stop, each in near if start <= at < stop]
        return min(
            holders,
            key=lambda each: (
                node is not None and self._nodes[each] != node,
                each != last,
                self.given[each],
            ),
            default=None,
        )
