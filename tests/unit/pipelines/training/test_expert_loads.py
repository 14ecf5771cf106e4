"""Experts of a living run move where the load of its last steps makes that worth it."""

from dataclasses import replace

import pytest

from actors.commands import LayerReport, StepReport
from moe.config.run.elastic import ElasticSection
from moe.planning.plan.plan import Plan
from pipelines.training.expert_loads import ExpertLoads
from tests import runs
from tests.routed import routed

EVEN, SKEWED = (10, 10, 10, 10), (40, 40, 1, 1)


def gang() -> Plan:
    """Two ranks with two experts each."""
    return runs.plan(routed(2), (2,), (2, 1), (2, 2))


def step(load: tuple[int, ...]) -> StepReport:
    layer = LayerReport(load, 0.0, 0.0, 0.0, 0.0)
    return StepReport(1, 2.0, 1.0, 1e-3, 10, 1.0, {0: layer, 1: replace(layer, load=EVEN)}, ())


def test_busy_experts_of_one_rank_are_parted_after_so_many_steps() -> None:
    loads, plan = ExpertLoads(ElasticSection(rebalance_every=2)), gang()
    loads.note(step(SKEWED))
    assert loads.better(plan) is None
    loads.note(step(SKEWED))
    better = loads.better(plan)
    assert better is not None
    (moved,) = better.stages[0].expert_layout
    assert moved.layer == 0
    assert {len({0, 1} & {*experts}) for experts in moved.experts} == {1}
    assert loads.better(plan) is None  # counting begins anew


@pytest.mark.parametrize(
    ("elastic", "load"),
    [
        (ElasticSection(), SKEWED),
        (ElasticSection(rebalance_every=1), EVEN),
        (ElasticSection(rebalance_every=1, rebalance_gain=0.9), SKEWED),
    ],
)
def test_experts_stay_where_nothing_is_asked_or_gained(
    elastic: ElasticSection, load: tuple[int, ...]
) -> None:
    loads = ExpertLoads(elastic)
    loads.note(step(load))
    assert loads.better(gang()) is None


def test_a_model_without_experts_has_nothing_to_move() -> None:
    loads = ExpertLoads(ElasticSection(rebalance_every=1))
    loads.note(replace(step(EVEN), layers={}))
    assert loads.better(gang()) is None
