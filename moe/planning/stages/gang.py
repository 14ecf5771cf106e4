"""The cost of a stage on a gang: seconds of each layer, sums over members, the fullest memory.

A gang waits for its slowest member after every layer, and sums over its members twice in every
block, each way; where it splits the vocabulary, once more at either end. With replicas every member
has one device in each of them, and the slowest and the smallest of these count.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations

from moe.config.model import ModelConfig
from moe.planning.counts.memory import Position
from moe.planning.counts.work import layers_like
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.links import slowest
from moe.planning.stages.member import Member, MemberCosts, Seconds, Span, Spans

_SUMS_OF_A_BLOCK = 2


@dataclass(frozen=True, slots=True)
class StageCost:
    """The cost of some layers as one stage.

    Seconds of a micro-batch ``forward`` and ``backward`` (with what is computed again), and once a
    step, ``reduce`` of gradients over the replicas and ``update`` of the optimiser; ``fullness`` is
    the largest part of its memory that a member uses, above 1 where it does not fit. ``spans`` has
    the forward and backward seconds of each of several spans of layers.
    """

    forward: float
    backward: float
    reduce: float
    update: float
    fullness: float
    recompute: tuple[int, ...] = ()
    spans: tuple[Seconds, ...] = ()

    @property
    def seconds(self) -> float:
        """Seconds of one micro-batch, forward and backward."""
        return self.forward + self.backward


class GangCosts:
    """Costs of any spans of layers on one gang, under one workload.

    A search asks for one span, ``layers``, very often; ``of_spans`` and ``leanest`` take several.
    """

    def __init__(
        self,
        config: ModelConfig,
        inventory: Inventory,
        workload: Workload,
        members: Sequence[Member],
    ) -> None:
        self.config, self.workload = config, workload
        self.members = [MemberCosts(config, inventory, workload, each) for each in _unlike(members)]
        gangs = {tuple(device.link_key for device in gang): gang for gang in _replicas(members)}
        self._sum_seconds = max(
            _sum_seconds(config, inventory, workload, gang) for gang in gangs.values()
        )
        self._sums = _SUMS_OF_A_BLOCK * self._sum_seconds
        self._splits_vocabulary = members[0].share.vocabulary is not None
        self._again = self._blocks()
        self._forward = tuple(accumulate((both[0] for both in self._again), initial=0.0))
        self._backward = tuple(accumulate((both[1] for both in self._again), initial=0.0))
        self._experts = tuple(
            accumulate((config.has_experts(layer) for layer in range(config.layers)), initial=0)
        )
        self._ends: dict[tuple[bool, bool], Seconds] = {}
        self._tokens: dict[tuple[int, int, tuple[bool, bool]], int] = {}
        self._alike: dict[tuple[int, int, Position, float], StageCost] = {}

    def alike(self, layers: Span, position: Position, room: float = 1.0) -> StageCost:
        """Return ``stage`` of these layers, cached for equal sequences of kinds, which have equal
        costs.
        """
        start, stop = layers
        key = stop - start, self._experts[stop] - self._experts[start], position, room
        if key not in self._alike:
            self._alike[key] = self.stage(layers, position, room)
        return self._alike[key]

    def stage(self, layers: Span, position: Position, room: float = 1.0) -> StageCost:
        """Return the cost of layers as a stage with as little recomputation as memory allows.

        ``room`` is the fraction of its memory that a device may use. If not even full recomputation
        fits, the cost of full recomputation is returned, with ``fullness`` above ``room``.
        """
        return self.leanest((layers,), position, room)

    def leanest(self, spans: Spans, position: Position, room: float = 1.0) -> StageCost:
        """Return ``stage`` of several spans of layers.

        Of each kind the first layers are recomputed, because the schedule keeps most micro-batches
        of the first span.
        """
        kept = self.of_spans(spans, position, ())
        if kept.fullness <= room or not self.workload.training:
            return kept
        return self._recomputed(spans, position, room)

    def fixed(self, layers: Span, position: Position, recompute: Collection[int]) -> StageCost:
        """Return the cost of layers as a stage that recomputes the layers in ``recompute``."""
        return self.of_spans((layers,), position, recompute)

    def of_spans(self, spans: Spans, position: Position, recompute: Collection[int]) -> StageCost:
        """Return the cost of spans of layers as a stage that recomputes the layers in
        ``recompute``.
        """
        last = len(spans) - 1
        each = tuple(
            self._span(
                span, (position.ends[0] and not number, position.ends[1] and number == last), again
            )
            for number, (span, again) in enumerate(
                zip(spans, _by_span(spans, recompute), strict=True)
            )
        )
        held = [member.parameters(spans, position) for member in self.members]
        return StageCost(
            forward=sum(forward for forward, _ in each),
            backward=sum(backward for _, backward in each),
            reduce=max(map(MemberCosts.reduce_seconds, self.members, held)),
            update=max(map(MemberCosts.update_seconds, self.members, held)),
            fullness=max(member.fullness(spans, position, recompute) for member in self.members),
            recompute=tuple(recompute),
            spans=each if last else (),
        )

    def _span(self, span: Span, ends: tuple[bool, bool], recompute: Collection[int]) -> Seconds:
        """Return the seconds of one span of layers, with embedding and head if it has them."""
        start, stop = span
        beside = self._end_seconds(ends)
        again = sum(self._again[layer][0] + self._sums for layer in recompute)
        sums = (stop - start) * self._sums
        sums_back = sums if self.workload.training else 0.0
        return (
            self._forward[stop] - self._forward[start] + beside[0] + sums,
            self._backward[stop] - self._backward[start] + beside[1] + again + sums_back,
        )

    def tokens(self, layers: Span, position: Position) -> int:
        """Return how many tokens' keys and values fit beside the weights of these layers."""
        start, stop = layers
        key = stop - start, self._experts[stop] - self._experts[start], position.ends
        if key not in self._tokens:
            self._tokens[key] = min(member.tokens(layers, position) for member in self.members)
        return self._tokens[key]

    def _recomputed(self, spans: Spans, position: Position, room: float) -> StageCost:
        """Return the cost with the fastest choice of recomputed blocks that fits.

        Blocks of a kind are equal, so the first of each kind are tried: any number of dense blocks,
        each with the smallest sufficient number of MoE blocks.
        """
        kinds: dict[bool, list[int]] = {True: [], False: []}
        layers = [layer for span in spans for layer in range(*span)]
        for layer in layers:
            kinds[self.config.has_experts(layer)].append(layer)
        dense, experts = kinds[False], kinds[True]
        fitting = []
        for count in range(len(dense) + 1):
            chosen = self._fewest(spans, position, room, (dense[:count], experts))
            if chosen is not None:
                fitting.append(self.of_spans(spans, position, chosen))
        if not fitting:
            return self.of_spans(spans, position, layers)
        return min(fitting, key=lambda cost: cost.backward)

    def _fewest(
        self, spans: Spans, position: Position, room: float, blocks: tuple[list[int], list[int]]
    ) -> tuple[int, ...] | None:
        """Return ``blocks`` of the first kind with the fewest of the second kind that fit; None if
        none fit.

        The first recomputed block needs memory for one full block; each further block frees some.
        """

        always, more = blocks

        def fits(count: int) -> bool:
            chosen = always + more[:count]
            return all(member.fullness(spans, position, chosen) <= room for member in self.members)

        least = 0 if always else 1
        count = bisect_left(range(least, len(more) + 1), True, key=fits) + least
        return tuple(sorted(always + more[:count])) if count <= len(more) else None

    def _blocks(self) -> list[Seconds]:
        """Return the seconds of every block on its slowest member."""
        found: dict[tuple[int, ...], Seconds] = {}
        blocks = []
        likes = (layers_like(self.config, member.share) for member in self.members)
        for like in zip(*likes, strict=True):
            if like not in found:
                found[like] = self._block(max(like))
            blocks.append(found[like])
        return blocks

    def _block(self, layer: int) -> Seconds:
        both = [member.block(layer) for member in self.members]
        return max(each[0] for each in both), max(each[1] for each in both)

    def _end_seconds(self, ends: tuple[bool, bool]) -> Seconds:
        """Return the seconds that embedding and head add if a stage has them."""
        if ends not in self._ends:
            both = [member.ends(Position(ends=ends)) for member in self.members]
            split = sum(ends) if self._splits_vocabulary else 0
            sums = split * self._sum_seconds if split else 0.0
            forward = max(each[0] for each in both) + sums
            self._ends[ends] = forward, max(each[1] for each in both)
        return self._ends[ends]


def _by_span(spans: Spans, layers: Collection[int]) -> list[Collection[int]]:
    """Return which of some layers are in each span."""
    if len(spans) == 1:
        return [layers]
    return [[layer for layer in layers if start <= layer < stop] for start, stop in spans]


def _unlike(members: Sequence[Member]) -> list[Member]:
    """Return one of each kind of member: members with slices of equal size on equal devices are one
    kind.
    """
    kinds: dict[Hashable, Member] = {}
    for member in members:
        devices = tuple(device.traits for device in member.devices)
        kinds.setdefault((member.share.sizes, devices), member)
    return list(kinds.values())


def _replicas(members: Sequence[Member]) -> list[tuple[Device, ...]]:
    """Return the devices of a gang in each replica."""
    return list(zip(*(member.devices for member in members), strict=True))


def sums_of_a_block(
    config: ModelConfig, inventory: Inventory, workload: Workload, gang: Sequence[Device]
) -> float:
    """Return the seconds that sums over a gang add to a block, forward; backward adds as much."""
    return _SUMS_OF_A_BLOCK * _sum_seconds(config, inventory, workload, gang)


def _sum_seconds(
    config: ModelConfig, inventory: Inventory, workload: Workload, gang: Sequence[Device]
) -> float:
    """Return the time to sum the hidden states of a micro-batch over a gang."""
    if len(gang) == 1:
        return 0.0
    size = workload.tokens_at_once * config.hidden_size * workload.numerics.message
    counts = Counter(device.link_key for device in gang)
    by_links = {device.link_key: device for device in gang}
    pairs = [(by_links[key], by_links[key]) for key, count in counts.items() if count > 1]
    pairs += combinations(by_links.values(), 2)
    return slowest([inventory.link(*pair) for pair in pairs]).all_reduce_seconds(size, len(gang))
