"""Turn a shape into the problem that the exact search solves, and the answer into a plan.

A shape fixes the number of stages, the size of a gang and the replicas. A unit is what one stage
takes: a gang in every replica. Two units are of one kind if the search may exchange them: their
devices are alike, and so are their links to every other unit. The search then chooses the kind of
each stage, and the next free unit of that kind takes the stage.

    units of one gang    A on node a, B on b, C on c: all A100      D on d: T4
    all links alike      kinds  [A, B, C]  [D]
    a and b are nearer   kinds  [A]  [B]  [C]  [D]        A next to B is not A next to C
    too many kinds       kinds  [A, B, C]  [D]            A is taken before B, B before C
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from math import prod

from moe.config.model import ModelConfig
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.plan.plan import Plan, RankPlan, StagePlan
from moe.planning.prediction.positions import positions_of
from moe.planning.prediction.predict import hop_seconds, tied_seconds
from moe.planning.search.bounds import bounds_of
from moe.planning.search.pipeline import Answer, Fixed, Pipeline, UnitKind
from moe.planning.search.question import Question
from moe.planning.search.shapes import Floor, Shape
from moe.planning.stages.gang import GangCosts
from moe.planning.stages.member import Member
from moe.planning.stages.units import Unit, unit_links
from moe.planning.stages.widths import Width, cut_width, width_share

_MOST_ORDERS = 200
"""The most states of the search for which units on different nodes are different kinds.

A state counts the units of each kind that are used: a kind of n units has n + 1 possible counts,
and the states are the product of these over all kinds.
"""


def pipeline(question: Question, shape: Shape, units: Sequence[Unit], floor: Floor) -> Pipeline:
    """Return the problem of assigning units and layers to the stages of a shape.

    ``floor`` holds the lower bounds that no gang of the shape's size can beat.
    """
    config, inventory, pins = question.config, question.inventory, question.pins
    workload = question.cut(shape)
    bounds = bounds_of(workload)

    def hop(one: Unit, other: Unit) -> float:
        return hop_seconds(config, inventory, workload, one.gangs, other.gangs)

    tying = config.tie_embeddings and workload.training

    def tied(first: Unit, last: Unit) -> float:
        if not tying:
            return 0.0
        return tied_seconds(config, inventory, workload, first.columns, last.columns)

    apart = [[unit] for unit in units] if pins.order is not None else None
    kinds, node_by_node = (apart, False) if apart is not None else kinds_of(inventory, units)
    return Pipeline(
        kinds=tuple(
            UnitKind(unit_costs(config, inventory, workload, alike[0]), tuple(alike))
            for alike in kinds
        ),
        node_by_node=node_by_node,
        positions=positions_of(shape.stages, workload),
        layers=config.layers,
        bounds=bounds,
        hop=hop,
        tied=tied,
        floor=floor,
        fixed=Fixed(pins.layers, pins.recompute, pins.order),
    )


def unit_costs(
    config: ModelConfig, inventory: Inventory, workload: Workload, unit: Unit
) -> GangCosts:
    """Return what layers cost on a unit whose members hold slices in proportion to their speed."""
    members = [
        Member(width_share(config, width), column)
        for width, column in zip(widths(config, inventory, unit), unit.columns, strict=True)
    ]
    return GangCosts(config, inventory, workload, members)


def widths(config: ModelConfig, inventory: Inventory, unit: Unit) -> tuple[Width, ...]:
    """Return the slice of each gang member.

    A member has one device in each replica; its speed is that of the slowest of these.
    """
    speeds = [min(inventory.strength(device) for device in column) for column in unit.columns]
    return cut_width(config, speeds)


def to_plan(config: ModelConfig, inventory: Inventory, answer: Answer) -> Plan:
    """Return the plan that an answer of the search describes."""
    plan = Plan(
        model=config.summary(),
        stages=tuple(
            StagePlan(
                layers=stage.layers,
                ranks=_ranks(config, inventory, stage.unit),
                seconds=stage.cost.seconds,
                recompute=stage.cost.recompute,
            )
            for stage in answer.stages
        ),
    )
    plan.check_kinds()
    return plan


def _ranks(config: ModelConfig, inventory: Inventory, unit: Unit) -> tuple[RankPlan, ...]:
    ranks = []
    for width, column in zip(widths(config, inventory, unit), unit.columns, strict=True):
        ranks.append(
            RankPlan(
                devices=tuple(device.name for device in column),
                kv_heads=width.kv_heads,
                ffn=width.ffn,
                experts=width.experts,
                threads=min(device.threads for device in column),
                kind=column[0].kind,
                vocabulary=width.vocabulary,
                resources=column[0].resources,
                labels=column[0].labels,
                accelerator=column[0].accelerator,
            )
        )
    return tuple(ranks)


def kinds_of(inventory: Inventory, units: Sequence[Unit]) -> tuple[list[list[Unit]], bool]:
    """Return the units of each kind, and whether the search only takes them node by node.

    Units on different nodes are of one kind if exchanging them changes no link. If they are not,
    and telling nodes apart would give more than ``_MOST_ORDERS`` states, units with like devices
    are one kind all the same, in the order of their nodes; then the second value is True, because
    the search does not try other orders.
    """
    likes = [_like(inventory, unit) for unit in units]
    alike = _grouped(units, likes)
    by_node = _grouped(units, [(like, unit.nodes) for like, unit in zip(likes, units, strict=True)])
    if prod(len(group) + 1 for group in by_node) > _MOST_ORDERS:
        return [_by_node(group) for group in alike], True
    near = all(_as_near(inventory, group, units) for group in alike)
    return (alike if near else by_node), False


def _as_near(inventory: Inventory, group: Sequence[Unit], units: Sequence[Unit]) -> bool:
    """Tell whether all units of a group have the same links to each unit outside and inside it."""
    for other in units:
        links = {
            frozenset(
                inventory.link(mine, theirs)
                for mine, theirs in zip(unit.gangs[0], other.gangs[0], strict=True)
            )
            for unit in group
            if unit != other
        }
        if len(links) > 1:
            return False
    return True


def _by_node(units: Sequence[Unit]) -> list[Unit]:
    """Return the units sorted by node; nodes are in the order in which the units name them."""
    first = {nodes: number for number, nodes in reversed(list(enumerate(u.nodes for u in units)))}
    return sorted(units, key=lambda unit: first[unit.nodes])


def _like(inventory: Inventory, unit: Unit) -> Hashable:
    """Return what the costs of a unit depend on: its devices, and the links inside it."""
    devices = tuple(tuple(device.traits for device in gang) for gang in unit.gangs)
    return devices, unit_links(inventory, unit)


def _grouped(units: Sequence[Unit], keys: Sequence[Hashable]) -> list[list[Unit]]:
    """Return the units in groups of equal keys."""
    groups: dict[Hashable, list[Unit]] = defaultdict(list)
    for unit, key in zip(units, keys, strict=True):
        groups[key].append(unit)
    return list(groups.values())
