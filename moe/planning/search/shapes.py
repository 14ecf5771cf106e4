"""Shapes of a plan, and what each takes at least: the outer half of the search.

A shape is a gang size, a number of replicas, a pipeline depth and a micro-batch size. Let S be what
a micro-batch takes in all stages together if every layer is on the gang that is best at it, a what
the slowest stage takes of it, m the micro-batches and p the stages. Two paths through 1F1B, for
any stage with w stages after it, have the mean S + (m - 1 - w / 2) a, so a step takes at least

    S + (m - 1 - (p - 1) / 2) a      a at least S / p, and at least the layers that some stage has
    S + (m - 1) a                    for the last stage: a layer and the head

S has the hops between stages in it (``moe.planning.search.traffic``). Where all devices are equally
fast, gangs differ by the links inside them: some gang is as slow as the slowest of the quickest
p x replicas and holds at least a layer, so a is no less than a layer takes there.
``moe.planning.search.reach`` asks which layers, waits and reductions stages can combine.

Example: 4 layers of 1 s each, 2 stages, 8 micro-batches, hops of 0.1 s each way: S = 4 + 0.2 = 4.2,
a >= 4.2 / 2 = 2.1, so a step takes at least 4.2 + (7 - 0.5) x 2.1 = 17.85 s. If there are only two
gangs, and the second takes 3 s for a layer: a >= 3, so at least 4.2 + 6.5 x 3 = 23.7 s.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import inf
from typing import NamedTuple, TypeVar

from moe.config.model import ModelConfig
from moe.config.share import whole
from moe.config.tensors import tensors
from moe.planning.counts.fixed import least_fixed_bytes
from moe.planning.counts.memory import Position, state_bytes
from moe.planning.counts.work import Parameters, end_parameters, layer_parameters
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.links import Link
from moe.planning.search.reach import Reach
from moe.planning.search.traffic import NO_TRAFFIC, Traffic
from moe.planning.stages.gang import GangCosts, sums_of_a_block
from moe.planning.stages.units import Gang

N = TypeVar("N", int, float)

_ROUNDED = 1 + 1e-9
_CLOSE = 1e-3
"""How close a floor is found, from below."""
_GROWTH = 0.02
"""How much longer a step is tried first where a shorter one is too short."""


class Shape(NamedTuple):
    """How many ranks work together in which way."""

    gang: int
    replicas: int
    stages: int
    micro_batch: int

    @property
    def devices(self) -> int:
        """Ranks of all replicas."""
        return self.gang * self.replicas * self.stages

    def micro_batches(self, sequences: int) -> int:
        """Return how many micro-batches a replica has in a step of so many sequences."""
        return sequences // (self.replicas * self.micro_batch)

    def __str__(self) -> str:
        return (
            f"{self.replicas} x {self.stages} stages x gang {self.gang}, "
            f"micro-batch {self.micro_batch}"
        )


@dataclass(frozen=True, slots=True)
class Floor:
    """What a micro-batch takes at least on gangs of a size, each layer on the best of them.

    ``before[l]`` are the seconds of the embedding and all layers before l, ``head`` those of the
    head; ``forward`` is what of all this is forward. ``ahead[l]`` are forward seconds before l.
    ``held[l]`` are the parameters of the embedding and all layers before l, ``head_held`` those of
    the head: what the ranks of a gang have together. ``quickest`` has (n, s) where n gangs take at
    most s for a block of the quickest kind, ascending.
    """

    before: tuple[float, ...]
    head: float
    forward: float
    ahead: tuple[float, ...]
    held: tuple[int, ...]
    head_held: int
    quickest: tuple[tuple[int, float], ...]

    @property
    def total(self) -> float:
        """Seconds of the whole model."""
        return self.before[-1] + self.head

    def slowest_block(self, gangs: int) -> float:
        """Return what a block takes at least on the slowest of so many gangs."""
        if not self.quickest:
            return 0.0
        return next((seconds for count, seconds in self.quickest if count >= gangs), inf)

    def step_seconds(
        self, stages: int, micro_batches: int, one_by_one: bool, traffic: Traffic = NO_TRAFFIC
    ) -> float:
        """Return what a step of so many stages takes at least; ``one_by_one`` is 1F1B.

        ``traffic`` is what the stages send to each other and, under 1F1B, over the replicas.
        """
        total = self.total + traffic.all_hops(stages)
        slowest = self.slowest_block(stages * traffic.replicas)
        low = rough_seconds(total, stages, micro_batches, one_by_one, slowest)
        if not one_by_one or low == inf:
            return low
        held = self.held[-1] + (self.head_held if stages > 1 else 0)
        layers = self.before, self.ahead, self.held
        reach = Reach(layers, (self.total, held), stages, micro_batches, traffic)
        return _least_within(reach, low)

    def windows(self, most: Sequence[float]) -> list[tuple[int, int]]:
        """Return the first and the last layer that each stage may begin with.

        ``most`` are the seconds that each stage may take. A little is allowed for rounding.
        """
        before, layers = self.before, len(self.before) - 1
        latest, earliest = [0], [layers]
        for seconds in most[:-1]:
            done = before[latest[-1]] if latest[-1] else 0.0
            reach = bisect_right(before, (done + seconds) * _ROUNDED) - 1
            latest.append(max(0, min(reach, layers)))
        for seconds in reversed(most):
            left = before[earliest[-1]] - seconds * _ROUNDED
            earliest.append(min(bisect_left(before, left), layers) if left > before[0] else 0)
        return list(zip(reversed(earliest[1:]), latest, strict=True))


def _least_within(reach: Reach, low: float) -> float:
    """Return the least seconds that stages can keep to, from below; at least ``low``."""
    high, growth = low, _GROWTH
    while not reach.within(high):
        low, high, growth = high, high * (1 + growth), 2 * growth
        if high == inf:
            return inf
    while high - low > _CLOSE * high:
        middle = (low + high) / 2
        if reach.within(middle):
            high = middle
        else:
            low = middle
    return low


def rough_seconds(
    total: float, stages: int, micro_batches: int, one_by_one: bool, slowest: float = 0.0
) -> float:
    """Return what a step takes at least that takes ``total`` a micro-batch in all stages.

    Some stage takes ``slowest`` of a micro-batch at least.
    """
    fill = micro_batches - 1 - ((stages - 1) / 2 if one_by_one else 0.0)
    return total + fill * max(total / stages, slowest) if fill > 0 else total


def least_reduction(
    config: ModelConfig, ranks: int, replicas: int, link: Link, workload: Workload
) -> float:
    """Return the seconds that the fullest of the ranks of a replica takes to sum its gradients."""
    if replicas == 1 or not workload.training:
        return 0.0
    size = _parameters(config).total // ranks * workload.exchanged
    return link.all_reduce_seconds(size, replicas)


def least_sums(
    config: ModelConfig, inventory: Inventory, workload: Workload, gangs: Sequence[Gang]
) -> float:
    """Return the least seconds, both ways, that any gang takes to sum over itself in all blocks."""
    ways = 2 if workload.training else 1
    each = min(sums_of_a_block(config, inventory, workload, gang) for gang in gangs)
    return ways * config.layers * each


def floor(config: ModelConfig, gangs: Sequence[GangCosts], counts: Sequence[int]) -> Floor:
    """Return the floor of gangs of one size, given one of each kind and how many there are.

    Without ``counts`` it is not asked how slow the slowest of several gangs is.
    """
    kinds = {config.has_experts(layer): layer for layer in range(config.layers)}
    quickest = {
        kind: min(_seconds(gang, layer, (False, False)) for gang in gangs)
        for kind, layer in kinds.items()
    }
    layer = next(iter(kinds.values()))
    first, head = (
        min(_seconds(gang, layer, ends) - _seconds(gang, layer, (False, False)) for gang in gangs)
        for ends in ((True, False), (False, True))
    )
    blocks = (quickest[config.has_experts(layer)] for layer in range(config.layers))
    forward = min(gang.fixed((0, config.layers), Position(), ()).forward for gang in gangs)
    ahead = {kind: min(_forward(gang, layer) for gang in gangs) for kind, layer in kinds.items()}
    share = whole(config)
    sizes = {
        kind: layer_parameters(config, share, layer).changing.total for kind, layer in kinds.items()
    }
    return Floor(
        before=tuple(accumulate(blocks, initial=first)),
        head=head,
        forward=forward,
        ahead=_summed(config, ahead, 0.0),
        held=_summed(config, sizes, end_parameters(config, share, True, False).changing.total),
        head_held=end_parameters(config, share, False, True).changing.total,
        quickest=_quickest(kinds.values(), gangs, counts),
    )


def _quickest(
    layers: Collection[int], gangs: Sequence[GangCosts], counts: Sequence[int]
) -> tuple[tuple[int, float], ...]:
    """Return how many gangs are as quick as each kind, and the seconds it takes for a block."""
    seconds = [min(_seconds(gang, layer, (False, False)) for layer in layers) for gang in gangs]
    pairs = sorted(zip(seconds, counts, strict=True)) if counts else []
    sums = accumulate(count for _, count in pairs)
    return tuple(zip(sums, (each for each, _ in pairs), strict=True))


def _summed(config: ModelConfig, kinds: Mapping[bool, N], first: N) -> tuple[N, ...]:
    """Return the sums over ``first`` and all layers before each, given that of each kind."""
    layers = (kinds[config.has_experts(layer)] for layer in range(config.layers))
    return tuple(accumulate(layers, initial=first))


def least_bytes(config: ModelConfig, ranks: int, replicas: int, workload: Workload) -> int:
    """Return what the fullest device takes at least: weights and states, spread over the ranks."""
    total, exact, matrices, projected, frozen, frozen_exact = _parameters(config)
    narrow, exact = (total - exact) // ranks, exact // ranks
    matrices = min(narrow, -(-matrices // ranks))
    frozen_exact = min(exact, -(-frozen_exact // ranks))
    frozen = min(narrow + exact, -(-frozen // ranks))
    held = narrow + exact, exact, matrices, projected // ranks
    least = Parameters(*held, frozen, min(frozen, frozen_exact))
    states = state_bytes(least, workload, replicas)
    return least_fixed_bytes(workload) + (sum(states) if workload.training else states[0])


def is_1f1b(workload: Workload) -> bool:
    """Tell whether a workload is trained under 1F1B, which asks for a micro-batch a stage."""
    return workload.training and workload.schedule == "1f1b"


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, ascending."""
    small = [each for each in range(1, int(number**0.5) + 1) if number % each == 0]
    return sorted({*small, *(number // each for each in small)})


@lru_cache(maxsize=64)
def _parameters(config: ModelConfig) -> Parameters:
    return Parameters.of(tensors(config))


def _forward(gang: GangCosts, layer: int) -> float:
    return gang.fixed((layer, layer + 1), Position(1, (False, False)), ()).forward


def _seconds(gang: GangCosts, layer: int, ends: tuple[bool, bool]) -> float:
    return gang.fixed((layer, layer + 1), Position(1, ends), ()).seconds
