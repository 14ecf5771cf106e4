"""A shape to a problem for the exact search, and its answer to a plan."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from math import prod

from moe.config.model import ModelConfig
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.plan.plan import Plan, RankPlan, StagePlan
from moe.planning.prediction.positions import places_of
from moe.planning.prediction.predict import hop_seconds, tied_seconds
from moe.planning.search.bounds import bounds_of
from moe.planning.search.pipeline import Answer, Fixed, Pipeline, Sort
from moe.planning.search.question import Question
from moe.planning.search.shapes import Floor, Shape
from moe.planning.stages.gang import GangCosts
from moe.planning.stages.member import Member
from moe.planning.stages.units import Unit, unit_links
from moe.planning.stages.widths import Width, cut_width, width_share

_MOST_ORDERS = 200
"""Ways to have used units by node as well as by sort, up to which nodes are told apart."""


def pipeline(question: Question, shape: Shape, units: Sequence[Unit], floor: Floor) -> Pipeline:
    """Return the problem of putting units in a row of stages."""
    config, inventory, pins = question.config, question.inventory, question.pins
    workload = question.cut(shape)
    bounds = bounds_of(workload)

    def hop(one: Unit, other: Unit) -> float:
        return hop_seconds(config, inventory, workload, one.columns, other.columns)

    def tied(first: Unit, last: Unit) -> float:
        return tied_seconds(config, inventory, workload, first.columns, last.columns)

    apart = [[unit] for unit in units] if pins.order is not None else None
    sorts, node_by_node = (apart, False) if apart is not None else sorts_of(inventory, units)
    return Pipeline(
        sorts=tuple(
            Sort(unit_costs(config, inventory, workload, alike[0]), tuple(alike)) for alike in sorts
        ),
        node_by_node=node_by_node,
        places=places_of(shape.stages, workload),
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
    """Return the costs of a unit, its width cut by the speed of its devices."""
    members = [
        Member(width_share(config, width), column)
        for width, column in zip(widths(config, inventory, unit), unit.columns, strict=True)
    ]
    return GangCosts(config, inventory, workload, members)


def widths(config: ModelConfig, inventory: Inventory, unit: Unit) -> tuple[Width, ...]:
    """Return the slice of each member; where replicas are unlike, the slowest device decides."""
    speeds = [
        min(inventory.pace(device).rates.flops_per_second for device in column)
        for column in unit.columns
    ]
    return cut_width(config, speeds)


def to_plan(config: ModelConfig, inventory: Inventory, answer: Answer) -> Plan:
    """Return the plan that an answer describes."""
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
            )
        )
    return tuple(ranks)


def sorts_of(inventory: Inventory, units: Sequence[Unit]) -> tuple[list[list[Unit]], bool]:
    """Return units that cost the same together, those on other nodes apart where that matters.

    Where that would be too many ways, units of a sort are taken node by node: True.
    """
    alike = _grouped(inventory, units, with_nodes=False)
    by_node = _grouped(inventory, units, with_nodes=True)
    if prod(len(group) + 1 for group in by_node) > _MOST_ORDERS:
        return [_by_node(group) for group in alike], True
    near = all(_as_near(inventory, group, units) for group in alike)
    return (alike if near else by_node), False


def _as_near(inventory: Inventory, group: Sequence[Unit], units: Sequence[Unit]) -> bool:
    """Tell whether each of some units is as near to any other unit as the rest of them are."""
    for other in units:
        ways = {
            frozenset(
                inventory.link(mine, theirs)
                for mine, theirs in zip(unit.gangs[0], other.gangs[0], strict=True)
            )
            for unit in group
            if unit != other
        }
        if len(ways) > 1:
            return False
    return True


def _by_node(units: Sequence[Unit]) -> list[Unit]:
    """Return units of one node after the other, nodes in the order of the inventory."""
    first = {nodes: number for number, nodes in reversed(list(enumerate(u.nodes for u in units)))}
    return sorted(units, key=lambda unit: first[unit.nodes])


def _grouped(inventory: Inventory, units: Sequence[Unit], with_nodes: bool) -> list[list[Unit]]:
    groups: dict[Hashable, list[Unit]] = defaultdict(list)
    for unit in units:
        sort = tuple(tuple(device.sort for device in gang) for gang in unit.gangs)
        nodes = unit.nodes if with_nodes else ()
        groups[sort, unit_links(inventory, unit), nodes].append(unit)
    return list(groups.values())
