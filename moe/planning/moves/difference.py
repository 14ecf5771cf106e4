"""What a resize sends: the ranges of tensors that seats of a new plan need and do not hold.

Each element that a rank lacks is moved to it once, so no other list of moves has fewer bytes. The
giver is chosen among the ranks that hold the element: one on the same node, then the one that has
given the least so far. Who holds the copy of a rank that is lost gives in its place. An element
that no living rank holds has no giver; it must come from a checkpoint.

    old plan: rank 0 holds columns 0 to 3 of a tensor, rank 1 columns 3 to 4
    new plan: rank 0 holds columns 0 to 2, rank 1 columns 2 to 4
    moves:    rank 1 takes column 2 from rank 0: the band of its new part and of rank 0's old part
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from moe.config.model import ModelConfig
from moe.config.ranges import TensorRange, band_of
from moe.config.tensors import TensorSlice
from moe.planning.counts.workload import Workload
from moe.planning.moves.holdings import NOTHING, STATES, Holding, State, StateBytes, holdings
from moe.planning.moves.seating import Seating
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Move:
    """A range that the rank in seat ``to`` of the new plan needs, and who gives it.

    ``source`` is a seat of the old plan, or None where no living rank holds the range. ``range`` is
    of the band that the parts of both seats have in common, so it is one range for each of them;
    ``size`` is in bytes.
    """

    to: Seat
    source: Seat | None
    state: State
    range: TensorRange
    size: int


@dataclass(frozen=True, slots=True)
class Difference:
    """All moves from one plan to another, seat by seat of the new plan."""

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
        """Bytes of the optimiser's states, masters among them."""
        return sum(move.size for move in self.moves if move.state != "weights")

    @property
    def lost(self) -> tuple[Move, ...]:
        """The moves of what no living rank holds."""
        return tuple(move for move in self.moves if move.source is None)

    @property
    def received(self) -> Mapping[Seat, int]:
        """Bytes that come to each seat of the new plan, from other ranks or from a checkpoint."""
        total = Counter[Seat]()
        for move in self.moves:
            total[move.to] += move.size
        return total

    @property
    def given(self) -> Mapping[Seat, int]:
        """Bytes that the rank of each seat of the old plan gives to others."""
        total = Counter[Seat]()
        for move in self.moves:
            if move.source is not None:
                total[move.source] += move.size
        return total


def diff(
    config: ModelConfig, old: Plan, new: Plan, workload: Workload, seating: Seating
) -> Difference:
    """Return the moves that turn what ranks hold under ``old`` into what ``new`` asks of them.

    The workload says how many bytes the weight and the optimiser's states of an element have, and
    how far ZeRO cuts them over the replicas. Raises PlanError for a plan of another model.
    """
    old.check_model(config)
    new.check_model(config)
    states = StateBytes.of(workload)
    before = holdings(config, old, states, seating.copied)
    after = holdings(config, new, states)
    givers = _Givers(before, seating)
    moves = []
    for seat, wanted in after.items():
        stays = seating.stays.get(seat)
        held = NOTHING if stays is None else before[stays]
        for state in STATES:
            for name, range_ in wanted[state].items():
                own = held[state].get(name)
                if own == range_:
                    continue
                for source, missing in givers.split(seat, state, range_, own):
                    if source is not None and source == stays:
                        continue  # the rank has it itself, in a copy
                    size = states.of_element(range_.part)[state] * missing.elements
                    givers.given[source] += size
                    moves.append(Move(seat, source, state, missing, size))
    return Difference(tuple(moves))


class _Givers:
    """Who holds what, and how many bytes each rank has given so far.

    The old plan covers every tensor with parts; ranges are compared within the band that an old
    part has in common with the part wanted, where they are intervals of whole numbers.
    """

    def __init__(self, before: Mapping[Seat, Holding], seating: Seating) -> None:
        self.given: dict[Seat | None, int] = defaultdict(int)
        self._seating = seating
        self._holders: dict[tuple[State, str], dict[TensorSlice, list[tuple[Seat, TensorRange]]]]
        self._holders = defaultdict(lambda: defaultdict(list))
        for seat, held in before.items():
            for state in STATES:
                for name, range_ in held[state].items():
                    holders = self._holders[state, name][range_.part]
                    if seating.giver(seat) is not None:
                        holders.append((seat, range_))

    def split(
        self, to: Seat, state: State, wanted: TensorRange, own: TensorRange | None
    ) -> Iterator[tuple[Seat | None, TensorRange]]:
        """Yield the pieces of a range that are not held already, with who gives each.

        No piece goes over what two seats held: the copy of a seat gives only what that held.
        """
        for part, holders in self._holders[state, wanted.name].items():
            band = band_of(wanted.part, part)
            if band is None:
                continue
            kept = None if own is None or own.part != part else own.within(band)
            spans = [(seat, range_.within(band)) for seat, range_ in holders]
            for missing in _without(wanted.within(band), kept):
                for holder, (start, stop) in self._assigned(to, missing, spans):
                    source = None if holder is None else self._seating.giver(holder)
                    yield source, TensorRange(band, start, stop)

    def _assigned(
        self, to: Seat, missing: Interval, holders: Sequence[tuple[Seat, Interval]]
    ) -> Iterator[tuple[Seat | None, Interval]]:
        """Cut an interval where holders change, and choose a giver for every piece."""
        low, high = missing
        near = [(seat, (a, b)) for seat, (a, b) in holders if a < high and low < b]
        ends = {end for _, span in near for end in span if low < end < high}
        source, begin = None, low
        for start in sorted(ends | {low}):
            there = [seat for seat, (a, b) in near if a <= start < b]
            found = self._choose(to, source, there)
            if start > low and found != source:
                yield source, (begin, start)
                begin = start
            source = found
        yield source, (begin, high)

    def _choose(self, to: Seat, last: Seat | None, holders: Sequence[Seat]) -> Seat | None:
        """Return whose holding gives; of equals the one that gave the elements before."""
        node = self._seating.new_nodes.get(to)
        nodes, itself = self._seating.old_nodes, self._seating.stays.get(to)

        def order(holder: Seat) -> tuple[bool, bool, bool, int]:
            giver = self._seating.giver(holder)
            assert giver is not None
            far = node is not None and nodes.get(giver) != node
            return giver != itself, far, holder != last, self.given[giver]

        return min(holders, key=order, default=None)


def _without(wanted: Interval, held: Interval | None) -> Iterator[Interval]:
    """Yield what is left of an interval without another."""
    start, stop = wanted
    low, high = held if held is not None and held[0] < held[1] else (stop, stop)
    for piece in ((start, min(stop, low)), (max(start, high), stop)):
        if piece[0] < piece[1]:
            yield piece
