"""Every plan there is for a small question, one after the other: what a search is held against."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise, permutations, product
from math import inf, isfinite

from moe.config.model import ModelConfig
from moe.errors import PlanError
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.plan.plan import Plan, RankPlan, StagePlan
from moe.planning.prediction.positions import positions_of
from moe.planning.prediction.predict import Prediction, hop_seconds, tied_seconds
from moe.planning.schedules.schedule import check_schedule
from moe.planning.schedules.simulate import makespan_1f1b
from moe.planning.search.assemble import unit_costs, widths
from moe.planning.search.question import Question
from moe.planning.search.shapes import Shape
from moe.planning.stages.gang import GangCosts, StageCost
from moe.planning.stages.units import Unit, form_gangs, form_units
from moe.planning.stages.widths import widest

Cut = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Whole:
    """A whole pipeline: its units in order, their layers and costs, and what a step takes."""

    config: ModelConfig
    inventory: Inventory
    shape: Shape
    workload: Workload
    units: tuple[Unit, ...]
    cut: Cut
    costs: tuple[StageCost, ...]
    gangs: tuple[GangCosts, ...]
    seconds: float

    @property
    def fullness(self) -> float:
        return max(cost.fullness for cost in self.costs)

    @property
    def tokens(self) -> int:
        positions = positions_of(len(self.units), self.workload)
        return min(
            gang.tokens(layers, position)
            for gang, layers, position in zip(self.gangs, self.cut, positions, strict=True)
        )

    @cached_property
    def plan(self) -> Plan:
        """The plan, written down as a person would."""
        stages = []
        for unit, layers, cost in zip(self.units, self.cut, self.costs, strict=True):
            ranks = tuple(
                RankPlan(
                    tuple(device.name for device in column),
                    width.kv_heads,
                    width.ffn,
                    width.experts,
                    min(device.threads for device in column),
                    column[0].kind,
                    width.vocabulary,
                )
                for width, column in zip(
                    widths(self.config, self.inventory, unit), unit.columns, strict=True
                )
            )
            stages.append(StagePlan(layers, ranks, cost.seconds, cost.recompute))
        return Plan(self.config.summary(), tuple(stages))


def every_shape(question: Question) -> Iterator[Shape]:
    """Yield every shape that the sequences, the layers and the width of the model allow."""
    pins, count = question.pins, len(question.inventory.devices)
    sizes = range(1, min(count, widest(question.config)) + 1)
    most = min(count, question.config.layers)
    for gang, replicas, stages in product(sizes, range(1, count + 1), range(1, most + 1)):
        for micro_batch in range(1, question.sequences + 1):
            shape = Shape(gang, replicas, stages, micro_batch)
            wanted = (pins.gang, pins.replicas, pins.depth, pins.micro_batch)
            given = (gang, replicas, stages, micro_batch)
            pinned = all(want in (None, have) for want, have in zip(wanted, given, strict=True))
            if pinned and _carries(question, shape):
                yield shape


def every_plan(question: Question, any_recompute: bool = False) -> Iterator[Whole]:
    """Yield every pipeline that fits: of each shape, in each order of units, with each cut.

    Stages recompute as little as fits, or, if asked, any of their layers.
    """
    for shape in every_shape(question):
        yield from plans_of(question, shape, any_recompute)


def plans_of(question: Question, shape: Shape, any_recompute: bool = False) -> Iterator[Whole]:
    """Yield every pipeline of a shape that fits."""
    config, inventory, workload = question.config, question.inventory, question.cut(shape)
    gangs = form_gangs(inventory, shape.gang)
    units = form_units(gangs, shape.replicas, shape.stages)
    costs = {id(unit): unit_costs(config, inventory, workload, unit) for unit in units}
    positions = positions_of(shape.stages, workload)
    cuts = list(every_cut(config.layers, shape.stages))
    choices: dict[tuple[int, int, tuple[int, int]], list[StageCost]] = {}
    for row in _rows(units, shape.stages):
        if question.pins.order is not None and question.pins.order != tuple(
            unit.gangs[0][0].name for unit in row
        ):
            continue
        hops = [hop_seconds(config, inventory, workload, *pair) for pair in _ways(row)]
        tied = 0.0
        if shape.stages > 1:
            ends = row[0].columns, row[-1].columns
            tied = tied_seconds(config, inventory, workload, *ends)
        if not all(map(isfinite, [*hops, tied])):
            continue
        for cut in cuts:
            options = []
            for number, (unit, layers) in enumerate(zip(row, cut, strict=True)):
                key = id(unit), number, layers
                if key not in choices:
                    gang, position = costs[id(unit)], positions[number]
                    tried = (
                        [gang.fixed(layers, position, again) for again in subsets(range(*layers))]
                        if any_recompute
                        else [gang.stage(layers, position)]
                    )
                    choices[key] = [cost for cost in tried if _works(cost, workload.training)]
                options.append(choices[key])
            for chosen in product(*options):
                seconds = _seconds(chosen, hops, tied, workload)
                if seconds < inf:
                    used = tuple(costs[id(unit)] for unit in row)
                    yield Whole(config, inventory, shape, workload, row, cut, chosen, used, seconds)


def every_cut(layers: int, stages: int) -> Iterator[Cut]:
    """Yield every way to cut layers into so many spans."""
    for inner in combinations(range(1, layers), stages - 1):
        yield tuple(pairwise((0, *inner, layers)))


def subsets(layers: range) -> Iterator[tuple[int, ...]]:
    """Yield every choice of layers."""
    for size in range(len(layers) + 1):
        yield from combinations(layers, size)


def _works(cost: StageCost, training: bool) -> bool:
    """Return whether a stage fits, and its gang and its replicas can say what they must."""
    seconds = cost.forward + cost.backward + (cost.reduce if training else 0.0)
    return cost.fullness <= 1 and isfinite(seconds)


def _carries(question: Question, shape: Shape) -> bool:
    """Return whether the sequences can be cut so, for a schedule that takes it."""
    if question.sequences % (shape.replicas * shape.micro_batch):
        return False
    if question.workload.training:
        try:
            check_schedule(
                question.workload.schedule,
                shape.stages,
                shape.micro_batches(question.sequences),
            )
        except PlanError:
            return False
    return True


def _rows(units: Sequence[Unit], stages: int) -> Iterator[tuple[Unit, ...]]:
    """Yield the orders of units, one of those that differ in nothing but names of devices."""
    seen = set()
    for row in permutations(units, stages):
        key = tuple(
            tuple((device.traits, device.node) for device in gang)
            for unit in row
            for gang in unit.gangs
        )
        if key not in seen:
            seen.add(key)
            yield row


def _ways(row: Sequence[Unit]) -> list[tuple[object, object]]:
    return [(one.columns, other.columns) for one, other in pairwise(row)]


def _seconds(
    costs: Sequence[StageCost], hops: Sequence[float], tied: float, workload: Workload
) -> float:
    """Return what ``Prediction`` says of these stages; its simulator has a short form of 1F1B."""
    if not (workload.training and workload.schedule == "1f1b"):
        return Prediction(tuple(costs), tuple(hops), tied, (), workload).step_seconds
    ways = (0.0, *hops, 0.0)
    forward = [cost.forward + before for cost, before in zip(costs, ways, strict=False)]
    backward = [cost.backward + after for cost, after in zip(costs, ways[1:], strict=True)]
    none, reduce = [0.0] * len(hops), [cost.reduce for cost in costs]
    makespan = makespan_1f1b(forward, backward, none, workload.micro_batches, reduce)
    return makespan + tied + max(cost.update for cost in costs)
