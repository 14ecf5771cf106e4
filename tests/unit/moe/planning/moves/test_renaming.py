"""The plan that moves least among equal ones, against every way to rename its devices."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.model import ModelConfig
from moe.errors import PlanError
from moe.planning.counts.workload import BF16, MEGATRON, Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.links import Link
from moe.planning.moves.difference import diff
from moe.planning.moves.renaming import least_moving, nearest
from moe.planning.moves.seating import seated_by_device
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import predict
from tests.examples import examples
from tests.plans import SMOLLM2, configs, device, replicated, single, suiting

SOME = settings(max_examples=examples(60))
TRAINING = Workload(8, 1, 8)
SORTS = ({}, {"memory_bytes": 10**12}, {"speed": 2.0})


@st.composite
def clusters(draw: st.DrawFn) -> Inventory:
    """Draw at most five devices on up to three nodes, some unlike others."""
    nodes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3).filter(lambda n: sum(n) <= 5))
    sorts = st.sampled_from(SORTS[: draw(st.integers(1, 3))])
    return Inventory(
        tuple(
            device(f"{node}/{number}", node, **draw(sorts))
            for node, count in zip("abc", nodes, strict=False)
            for number in range(count)
        )
    )


@st.composite
def cases(draw: st.DrawFn, count: int = 1) -> tuple[ModelConfig, Inventory, Plan, list[Plan]]:
    """Draw a model, devices, an old plan (a device of it may be gone), and new plans."""
    config, cluster = draw(configs()), draw(clusters())
    names = [each.name for each in cluster.devices]
    old = draw(replicated(config, [*names[:4], "gone/0"]))
    return config, cluster, old, [draw(replicated(config, names)) for _ in range(count)]


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    return replace(
        TRAINING,
        training=draw(st.booleans()),
        numerics=draw(st.sampled_from([BF16, MEGATRON])),
        zero=draw(st.integers(0, 3)),
    )


def renamings(new: Plan, cluster: Inventory) -> Iterator[Plan]:
    """Yield the plan on all devices that are of the same sorts and on nodes in the same way."""
    loads: dict[str, list[Device]] = defaultdict(list)
    for stage in new.stages:
        for rank in stage.ranks:
            for name in rank.devices:
                loads[cluster.device(name).node].append(cluster.device(name))
    nodes = cluster.nodes()
    for chosen in permutations(nodes, len(loads)):
        ways = [
            permutations(nodes[node], len(load))
            for node, load in zip(chosen, loads.values(), strict=True)
        ]
        for way in product(*ways):
            names: dict[str, str] = {}
            for load, others in zip(loads.values(), way, strict=True):
                names |= {
                    one.name: other.name
                    for one, other in zip(load, others, strict=True)
                    if one.traits == other.traits
                }
            if len(names) == sum(len(load) for load in loads.values()):
                yield renamed(new, names)


def renamed(plan: Plan, names: dict[str, str]) -> Plan:
    stages = []
    for stage in plan.stages:
        ranks = (
            replace(rank, devices=tuple(names[name] for name in rank.devices))
            for rank in stage.ranks
        )
        stages.append(replace(stage, ranks=tuple(ranks)))
    return replace(plan, stages=tuple(stages))


def moved(config: ModelConfig, old: Plan, new: Plan, workload: Workload) -> int:
    return diff(config, old, new, workload, seated_by_device(old, new)).bytes


@settings(max_examples=examples(80))
@given(cases(), workloads())
def test_no_other_names_move_less(
    drawn: tuple[ModelConfig, Inventory, Plan, list[Plan]], workload: Workload
) -> None:
    config, cluster, old, (new,) = drawn
    found = nearest(config, old, new, cluster, workload)
    every = list(renamings(new, cluster))
    assert found in every
    assert moved(config, old, found, workload) == min(
        moved(config, old, each, workload) for each in every
    )


@SOME
@given(cases())
def test_the_prediction_is_the_same(
    drawn: tuple[ModelConfig, Inventory, Plan, list[Plan]],
) -> None:
    config, cluster, old, (new,) = drawn
    links = (Link(("a", "b"), 5e8), Link(("b", "c"), 5e8), Link(("*", "*"), 1e9))
    known = {each.node for each in cluster.devices} | {"*"}
    linked = replace(cluster, links=tuple(link for link in links if known.issuperset(link.nodes)))
    found = nearest(config, old, new, linked, TRAINING)
    work = suiting(new, TRAINING)
    before, after = (predict(config, plan, linked, work) for plan in (new, found))
    assert after.step_seconds == before.step_seconds


@SOME
@given(cases())
def test_names_stay_where_others_would_gain_nothing(
    drawn: tuple[ModelConfig, Inventory, Plan, list[Plan]],
) -> None:
    config, cluster, old, (new,) = drawn
    assert nearest(config, new, new, cluster, TRAINING) is new
    found = nearest(config, old, new, cluster, TRAINING)
    assert nearest(config, old, found, cluster, TRAINING) is found


@settings(max_examples=examples(20))
@given(cases(3), workloads())
def test_of_several_plans_the_one_that_moves_least_is_taken(
    drawn: tuple[ModelConfig, Inventory, Plan, list[Plan]], workload: Workload
) -> None:
    config, cluster, old, several = drawn
    found = least_moving(config, old, several, cluster, workload)
    assert found in [nearest(config, old, new, cluster, workload) for new in several]
    assert moved(config, old, found, workload) == min(
        moved(config, old, each, workload) for new in several for each in renamings(new, cluster)
    )


def test_copies_that_may_change_places_do_not() -> None:
    config, serving = replace(SMOLLM2, layers=4), replace(TRAINING, training=False)
    (stage,) = single(config).stages

    def copies(*names: str) -> Plan:
        ranks = (replace(stage.ranks[0], devices=names),)
        return replace(single(config), stages=(replace(stage, ranks=ranks),))

    cluster = Inventory(
        tuple(device(f"{node}/{number}", node) for node in "ab" for number in (0, 1))
    )
    new = copies("b/1", "a/1", "a/0")
    for old in (copies("a/0", "a/1", "b/1"), copies("gone/0")):
        assert nearest(config, old, new, cluster, serving) is new


def test_a_slow_link_keeps_a_plan_on_its_nodes() -> None:
    config = replace(SMOLLM2, layers=4)
    (stage,) = single(config).stages

    def cut(first: str, second: str) -> Plan:
        named = (((0, 2), first), ((2, 4), second))
        return Plan(
            config.summary(),
            tuple(
                replace(stage, layers=layers, ranks=(replace(stage.ranks[0], devices=(name,)),))
                for layers, name in named
            ),
        )

    devices = tuple(device(f"{node}/0", node) for node in "abc")
    old, new = cut("a/0", "c/0"), cut("a/0", "b/0")
    assert nearest(config, old, new, Inventory(devices), TRAINING) == old
    slow = Inventory(devices, (Link(("a", "c"), 1e6),))
    assert nearest(config, old, new, slow, TRAINING) == new


def test_a_device_for_two_ranks_and_no_plans_are_refused() -> None:
    config = replace(SMOLLM2, layers=4)
    plan = single(config)
    (stage,) = plan.stages
    twice = replace(plan, stages=(replace(stage, layers=(0, 2)), replace(stage, layers=(2, 4))))
    cluster = Inventory((device("a/0"),))
    with pytest.raises(PlanError, match="device a/0 for 2 seats"):
        nearest(config, twice, plan, cluster, TRAINING)
    with pytest.raises(PlanError, match="which of no plans"):
        least_moving(config, plan, [], cluster, TRAINING)
