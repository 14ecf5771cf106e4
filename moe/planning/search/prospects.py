"""The shapes of a search in the order of what each could reach at best.

A shape is bounded three times, each time closer and dearer: as if a gang of g were g times as fast
as the fastest device, with the sums that it has to make; by the floor of its own gangs and depth;
and inside the exact search. Only shapes that come up are bounded again.
"""

import heapq
from collections.abc import Iterator, Sequence
from functools import cached_property
from math import inf

from moe.planning.search.assemble import unit_costs
from moe.planning.search.objectives import Objective
from moe.planning.search.question import Question
from moe.planning.search.shapes import (
    Floor,
    Shape,
    divisors,
    floor,
    is_1f1b,
    least_bytes,
    least_reduction,
    least_sums,
    rough_seconds,
)
from moe.planning.search.traffic import Quickest, Runs, Traffic, quickest_links, runs_of, traffic
from moe.planning.stages.units import Gang, Unit, alike_gangs, form_gangs
from moe.planning.stages.widths import widest


class Prospects:
    """What the gangs of an inventory can be hoped to do."""

    def __init__(self, question: Question, objective: Objective) -> None:
        self._question, self._objective = question, objective
        self._gangs: dict[int, list[Gang]] = {}
        self._alike: dict[int, list[list[Gang]]] = {}
        self._floors: dict[tuple[int, int], Floor] = {}
        self._ideals: dict[tuple[int, int], float] = {}
        self._runs: dict[int, Runs] = {}
        self._sent: dict[tuple[int, int, int], Traffic] = {}
        self._deep_enough: dict[tuple[int, int], list[tuple[int, float]]] = {}

    def promising(self) -> Iterator[tuple[float, Shape]]:
        """Yield shapes with a bound of their value, those that may be best first."""
        open_shapes = [(least, False, shape) for least, shape in self._rough()]
        heapq.heapify(open_shapes)
        while open_shapes:
            least, own, written = heapq.heappop(open_shapes)
            shape = Shape(*written)
            if own:
                yield least, shape
            else:
                heapq.heappush(open_shapes, (max(least, self._close(shape)), True, written))

    def gangs(self, size: int) -> list[Gang]:
        """Return the gangs of a size."""
        if size not in self._gangs:
            self._gangs[size] = form_gangs(self._question.inventory, size)
            self._alike[size] = alike_gangs(self._question.inventory, self._gangs[size])
            self._runs[size] = runs_of(self._gangs[size])
        return self._gangs[size]

    def alike(self, size: int) -> bool:
        """Tell whether all gangs of a size are of one kind."""
        self.gangs(size)
        return len(self._alike[size]) == 1

    def _rough(self) -> Iterator[tuple[float, tuple[int, int, int, int]]]:
        """Yield a bound for every shape; there may be very many."""
        question, one_by_one = self._question, is_1f1b(self._question.workload)
        for gang, replicas, micro_batch in self._widths():
            count = question.sequences // (replicas * micro_batch)
            total = self._ideal(gang, micro_batch)
            backward = total - self.floor(1, micro_batch).forward / gang
            sent = self._traffic(gang, replicas, micro_batch)
            for stages, reduction in self._depths(gang, replicas):
                hops = sent.all_hops(stages)
                if total + hops < inf and (count >= stages or not one_by_one):
                    seconds = rough_seconds(total + hops, stages, count, one_by_one)
                    seconds += max(0.0, reduction - backward - hops / 2)
                    least = self._objective.least(gang * stages, replicas, seconds)
                    yield least, (gang, replicas, stages, micro_batch)

    def _close(self, shape: Shape) -> float:
        """Return the bound of a shape by the floor of its own gangs and depth."""
        question = self._question
        floor = self.floor(shape.gang, shape.micro_batch)
        seconds = floor.step_seconds(
            shape.stages,
            shape.micro_batches(question.sequences),
            is_1f1b(question.workload),
            self._traffic(shape.gang, shape.replicas, shape.micro_batch),
        )
        return self._objective.least(shape.gang * shape.stages, shape.replicas, seconds)

    def _ideal(self, gang: int, micro_batch: int) -> float:
        """Return what gangs take that are g times as fast as the fastest device."""
        if (gang, micro_batch) not in self._ideals:
            question = self._question
            work = question.workload.cut(micro_batch, 1)
            firsts = [alike[0] for alike in self._alike[gang]]
            sums = least_sums(question.config, question.inventory, work, firsts)
            alone = self.floor(1, micro_batch).total
            self._ideals[gang, micro_batch] = alone / gang + sums
        return self._ideals[gang, micro_batch]

    def floor(self, gang: int, micro_batch: int) -> Floor:
        """Return what a micro-batch takes at least on gangs of a size, one of each kind.

        Where devices are not equally fast, a unit may cut its width in a better proportion than
        the slowest of its gangs alone would: how slow that is then says nothing.
        """
        if (gang, micro_batch) not in self._floors:
            config, inventory = self._question.config, self._question.inventory
            work = self._question.workload.cut(micro_batch, 1)
            self.gangs(gang)
            units = [Unit((alike[0],)) for alike in self._alike[gang]]
            costs = [unit_costs(config, inventory, work, unit) for unit in units]
            counts = [len(alike) for alike in self._alike[gang]] if self._equally_fast else []
            self._floors[gang, micro_batch] = floor(config, costs, counts)
        return self._floors[gang, micro_batch]

    def _widths(self) -> Iterator[tuple[int, int, int]]:
        """Yield every gang size, number of replicas and micro-batch size that divide the step."""
        question, pins = self._question, self._question.pins
        most = min(widest(question.config), len(question.inventory.devices))
        sizes = divisors(question.sequences)
        for gang in (pins.gang,) if pins.gang else range(1, most + 1):
            for replicas in (pins.replicas,) if pins.replicas else sizes:
                if replicas > len(self.gangs(gang)):
                    continue
                each = question.sequences // replicas
                for micro_batch in (pins.micro_batch,) if pins.micro_batch else sizes:
                    if each % micro_batch == 0 and each * replicas == question.sequences:
                        yield gang, replicas, micro_batch

    def _depths(self, gang: int, replicas: int) -> Sequence[tuple[int, float]]:
        """Return the depths that there are gangs for, and memory for weights and states.

        With each goes what its replicas take at least to sum their gradients.
        """
        key = gang, replicas
        if key not in self._deep_enough:
            question, pins = self._question, self._question.pins
            most = min(question.config.layers, len(self.gangs(gang)) // replicas)
            depths = range(1, most + 1) if pins.depth is None else (pins.depth,)
            link = self._links.of_sums(gang, replicas, self._runs[gang])
            self._deep_enough[key] = [
                (
                    depth,
                    least_reduction(
                        question.config, gang * depth, replicas, link, question.workload
                    ),
                )
                for depth in depths
                if depth <= most
                and least_bytes(question.config, gang * depth, replicas, question.workload)
                <= self._largest
            ]
        return self._deep_enough[key]

    @cached_property
    def _largest(self) -> int:
        """The most memory of any device."""
        return max(device.memory_bytes for device in self._question.inventory.devices)

    @cached_property
    def _equally_fast(self) -> bool:
        """Whether all gangs of a size cut their width alike, and all units of them."""
        devices = self._question.inventory.devices
        return len({(each.kind, each.threads, each.speed) for each in devices}) == 1

    @cached_property
    def _links(self) -> Quickest:
        return quickest_links(self._question.inventory)

    def _traffic(self, gang: int, replicas: int, micro_batch: int) -> Traffic:
        """Return what the stages of shapes send."""
        key = gang, replicas, micro_batch
        if key not in self._sent:
            question = self._question
            work = question.workload.cut(micro_batch, 1)
            ranks, runs = (gang, replicas), self._runs[gang]
            self._sent[key] = traffic(question.config, work, ranks, runs, self._links)
        return self._sent[key]
