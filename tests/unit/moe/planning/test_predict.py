"""Predictions: a stage waits for its slowest rank, a step for its slowest stage."""

from dataclasses import replace

import pytest

from moe.config.share import whole
from moe.errors import PlanError
from moe.planning.costs import CPU_THREAD, Rates, Workload, embedding_work, head_work, layer_work
from moe.planning.inventory import Inventory
from moe.planning.make import make_plan
from moe.planning.predict import Prediction, bytes_per_rank, predict, stage_costs
from tests.plans import FINE, SMOLLM2, device, inventory, single, with_experts

WORKLOAD = Workload(sequence_length=128, micro_batch=1, micro_batches=4)


def test_one_rank_takes_all_its_parts() -> None:
    works = [layer_work(SMOLLM2, whole(SMOLLM2), 0, WORKLOAD)] * 30
    works += [part(SMOLLM2, whole(SMOLLM2), WORKLOAD) for part in (embedding_work, head_work)]
    predicted = predict(SMOLLM2, single(SMOLLM2), inventory(1), WORKLOAD)
    total = sum(work.seconds(device(), CPU_THREAD) for work in works)
    assert predicted.stage_seconds == (pytest.approx(total),)
    assert predicted.step_seconds == pytest.approx(4 * total)


def test_a_gang_waits_for_its_slowest_member() -> None:
    there = inventory(2)
    plan = make_plan(SMOLLM2, there, 1, 2, WORKLOAD)
    slowed = Inventory((there.devices[0], replace(there.devices[1], speed=0.1)))
    faster = Inventory((there.devices[0], replace(there.devices[1], speed=100.0)))
    alike = predict(SMOLLM2, plan, there, WORKLOAD).slowest_seconds
    assert predict(SMOLLM2, plan, slowed, WORKLOAD).slowest_seconds > 3 * alike
    assert predict(SMOLLM2, plan, faster, WORKLOAD).slowest_seconds == pytest.approx(alike)


def test_a_step_fills_the_pipeline_then_follows_the_slowest_stage() -> None:
    predicted = Prediction((1.0, 3.0, 2.0), (), micro_batches=5)
    assert predicted.slowest_seconds == 3.0
    assert predicted.step_seconds == 6.0 + 4 * 3.0


def test_other_rates_are_used() -> None:
    plan, there = single(SMOLLM2), inventory(1)
    half = Rates(CPU_THREAD.flops_per_second / 2, CPU_THREAD.bytes_per_second / 2)
    assert predict(SMOLLM2, plan, there, WORKLOAD, half).slowest_seconds == pytest.approx(
        2 * predict(SMOLLM2, plan, there, WORKLOAD).slowest_seconds
    )


def test_bytes_per_rank_are_those_of_the_prediction() -> None:
    config = with_experts(SMOLLM2, 8)
    plan = make_plan(config, inventory(4), 2, 2, WORKLOAD)
    predicted = predict(config, plan, inventory(4), WORKLOAD)
    needs = bytes_per_rank(config, plan, WORKLOAD)
    assert needs == tuple(need.total for need in predicted.rank_bytes)
    assert needs[0] > needs[1] > needs[3]


def test_what_the_plan_does_not_match_is_refused() -> None:
    plan = single(SMOLLM2)
    with pytest.raises(PlanError, match="the plan was made for experts = 0"):
        predict(with_experts(SMOLLM2, 8), plan, inventory(1), WORKLOAD)
    with pytest.raises(PlanError, match="the plan uses device a/0, the inventory has b"):
        predict(SMOLLM2, plan, Inventory((device("b"),)), WORKLOAD)


def test_each_layer_takes_the_time_of_its_kind() -> None:
    gang = [device()]
    costs = stage_costs(FINE, [whole(FINE)], gang, WORKLOAD, CPU_THREAD)
    dense, mixed = (
        layer_work(FINE, whole(FINE), layer, WORKLOAD).seconds(device(), CPU_THREAD)
        for layer in (0, 1)
    )
    assert dense != mixed
    assert costs.layers == tuple(dense if layer in (0, 7) else mixed for layer in range(30))
    predicted = predict(FINE, single(FINE), inventory(1), WORKLOAD)
    assert predicted.stage_seconds == (costs.seconds(0, 30),)
