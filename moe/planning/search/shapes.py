"""Shapes of a plan, and what each takes at least: the outer half of the search.

A shape is a gang size, a number of replicas, a pipeline depth and a micro-batch size. Let S be what
a micro-batch takes in all stages together if every layer is on the gang that is best at it, a what
the slowest stage takes of it, m the micro-batches and p the stages. Two paths through 1F1B, for
any stage with w stages after it, have the mean S + (m - 1 - w / 2) a, so a step takes at least

    S + (m - 1 - (p - 1) / 2) a      a at least S / p, and at least the layers that some stage has
    S + (m - 1) a                    for the last stage: a layer and the head

Some stage has gradients of at least a p-th of the parameters to sum over the replicas, and before
that all has gone forward through all stages: with F what of S is forward, and R the seconds of that
sum, a step takes at least F + (m - 1 - (p - 1) / 2) a + R.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import inf
from typing import NamedTuple

from moe.config.model import ModelConfig
from moe.config.tensors import parameters
from moe.planning.counts.memory import PROCESS_BYTES, Position, state_bytes
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.links import Link
from moe.planning.stages.gang import GangCosts, sums_of_a_block
from moe.planning.stages.units import Gang

_ROUNDED = 1 + 1e-9
_CLOSE = 1e-3
"""How close a floor is found, from below."""


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
    head; ``forward`` is what of all this is forward.
    """

    before: tuple[float, ...]
    head: float
    forward: float

    @property
    def total(self) -> float:
        """Seconds of the whole model."""
        return self.before[-1] + self.head

    def step_seconds(self, stages: int, micro_batches: int, one_by_one: bool) -> float:
        """Return what a step of so many stages takes at least; ``one_by_one`` is 1F1B."""
        if not one_by_one:
            return rough_seconds(self.total, stages, micro_batches, one_by_one)
        low, high = self.total, self.total * (micro_batches + stages)
        while high - low > _CLOSE * high:
            middle = (low + high) / 2
            if self._reaches(stages, micro_batches, middle):
                high = middle
            else:
                low = middle
        return low

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

    def _reaches(self, stages: int, micro_batches: int, seconds: float) -> bool:
        """Tell whether stages that each hold as much as the paths allow hold the model."""
        before, total = self.before, self.total
        layers, start = len(before) - 1, 0
        for behind in range(stages - 1, -1, -1):
            done = before[start] if start else 0.0
            most = min(
                (seconds - done) / micro_batches,
                (seconds - total) / (micro_batches - 1 - behind / 2) if micro_batches > 1 else inf,
            )
            alone = micro_batches - 2 - behind
            if alone > 0:
                most = min(most, (seconds - 2 * total + done) / alone)
            if behind == 0:
                return total - done <= most
            stop = bisect_right(before, done + most, lo=start) - 1
            start = min(stop, layers - behind)
            if start <= 0:
                return False
        return False


def rough_seconds(total: float, stages: int, micro_batches: int, one_by_one: bool) -> float:
    """Return what a step takes at least that takes ``total`` a micro-batch in all stages."""
    fill = (stages - 1) / 2 if one_by_one else 0.0
    return total * (1 + max(micro_batches - 1 - fill, 0.0) / stages)


def least_reduction(
    config: ModelConfig, ranks: int, replicas: int, link: Link, workload: Workload
) -> float:
    """Return the seconds that the fullest of the ranks of a replica takes to sum its gradients."""
    if replicas == 1 or not workload.training:
        return 0.0
    size = _parameters(config) // ranks * workload.numerics.gradient
    return link.all_reduce_seconds(size, replicas)


def least_sums(
    config: ModelConfig, inventory: Inventory, workload: Workload, gangs: Sequence[Gang]
) -> float:
    """Return the least seconds, both ways, that any gang takes to sum over itself in all blocks."""
    ways = 2 if workload.training else 1
    each = min(sums_of_a_block(config, inventory, workload, gang) for gang in gangs)
    return ways * config.layers * each


def floor(config: ModelConfig, gangs: Sequence[GangCosts]) -> Floor:
    """Return the floor of gangs of one size, given one of each kind."""
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
    return Floor(tuple(accumulate(blocks, initial=first)), head, forward)


def least_bytes(config: ModelConfig, ranks: int, replicas: int, workload: Workload) -> int:
    """Return what the fullest device takes at least: weights and states, spread over the ranks."""
    states = state_bytes(_parameters(config) // ranks, workload, replicas)
    return PROCESS_BYTES + (sum(states) if workload.training else states[0])


def is_1f1b(workload: Workload) -> bool:
    """Tell whether a workload is trained under 1F1B, which asks for a micro-batch a stage."""
    return workload.training and workload.schedule == "1f1b"


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, ascending."""
    small = [each for each in range(1, int(number**0.5) + 1) if number % each == 0]
    return sorted({*small, *(number // each for each in small)})


_parameters = lru_cache(maxsize=64)(parameters)


def _seconds(gang: GangCosts, layer: int, ends: tuple[bool, bool]) -> float:
    return gang.fixed((layer, layer + 1), Position(1, ends), ()).seconds
