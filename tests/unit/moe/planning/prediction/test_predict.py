"""Predictions: a stage waits for its slowest rank, a step for its slowest stage."""

from dataclasses import replace

import pytest

from moe.config.share import whole
from moe.config.tensors import parameters
from moe.errors import PlanError
from moe.planning.counts.passes import Passes
from moe.planning.counts.work import embedding_work, head_work, layer_work, optimizer_work, part_of
from moe.planning.counts.workload import FLOAT32, Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.links import Link
from moe.planning.devices.pace import Pace, Profile
from moe.planning.devices.rates import CPU_THREAD, Rates
from moe.planning.prediction.predict import Prediction, bytes_per_rank, predict
from moe.planning.search.make import make_plan
from moe.planning.stages.gang import StageCost
from tests.plans import FINE, SMOLLM2, device, inventory, single, with_experts

WORKLOAD = Workload(sequence_length=128, micro_batch=1, micro_batches=4)


def seconds(part: str, work: Passes) -> float:
    return sum(Pace(CPU_THREAD).seconds(part, work, WORKLOAD.tokens))


def test_one_rank_takes_all_its_parts() -> None:
    works = [layer_work(SMOLLM2, whole(SMOLLM2), 0, WORKLOAD)] * 30
    works += [part(SMOLLM2, whole(SMOLLM2), WORKLOAD) for part in (embedding_work, head_work)]
    predicted = predict(SMOLLM2, single(SMOLLM2), inventory(1), WORKLOAD)
    total = sum(seconds("dense", work) for work in works)
    assert predicted.stage_seconds == (pytest.approx(total),)
    update = optimizer_work(parameters(SMOLLM2), FLOAT32).bytes / CPU_THREAD.bytes_per_second
    assert predicted.after_seconds == pytest.approx(update)
    assert predicted.step_seconds == pytest.approx(4 * total + update)
    assert predicted.tokens_per_second == pytest.approx(4 * 128 / (4 * total + update))


def test_a_gang_waits_for_its_slowest_member() -> None:
    there = inventory(2)
    plan = make_plan(SMOLLM2, there, 1, 2, WORKLOAD)
    slowed = Inventory((there.devices[0], replace(there.devices[1], speed=0.1)))
    faster = Inventory((replace(there.devices[0], speed=100.0), there.devices[1]))
    alike = predict(SMOLLM2, plan, there, WORKLOAD).slowest_seconds
    assert predict(SMOLLM2, plan, slowed, WORKLOAD).slowest_seconds > 3 * alike
    first = predict(SMOLLM2, plan, faster, WORKLOAD).slowest_seconds
    assert plan.stages[0].ranks[0].kv_heads == (0, 2)
    assert alike / 2 < first < alike


def test_a_step_fills_the_pipeline_then_follows_the_slowest_stage() -> None:
    costs = (StageCost(1.0, 0.0, 0.0, 0.0, 0.5), StageCost(3.0, 0.0, 0.0, 0.0, 0.5))
    costs += (StageCost(2.0, 0.0, 0.0, 0.0, 0.5),)
    predicted = Prediction(costs, (0.0, 0.0), 0.0, (), replace(WORKLOAD, micro_batches=5))
    assert predicted.slowest_seconds == 3.0
    assert predicted.step_seconds == 6.0 + 4 * 3.0
    serving = replace(predicted, workload=replace(predicted.workload, training=False))
    assert serving.step_seconds == 6.0 + 4 * 3.0


def test_hops_reductions_ties_and_the_optimiser_are_in_the_step() -> None:
    costs = (StageCost(1.0, 2.0, 5.0, 0.25, 0.5), StageCost(1.0, 2.0, 0.5, 0.75, 0.5))
    predicted = Prediction(costs, (0.125,), 1.5, (), replace(WORKLOAD, micro_batches=2))
    # Forward of both stages with the way to the second, two backwards there, then the first's last
    # backward with the way back and its reduction.
    there_and_back = 1.0 + 1.125 + 2.0 + 1.125 + 2.0 + 2.125
    assert predicted.timeline.makespan == there_and_back + 5.0
    assert predicted.after_seconds == 1.5 + 0.75
    assert predicted.step_seconds == there_and_back + 5.0 + 1.5 + 0.75


def test_other_rates_are_used() -> None:
    plan, there = single(SMOLLM2), inventory(1)
    half = Rates(CPU_THREAD.flops_per_second / 2, CPU_THREAD.bytes_per_second / 2)
    slow = there.measured([Profile("cpu", 1, half)])
    assert predict(SMOLLM2, plan, slow, WORKLOAD).step_seconds == pytest.approx(
        2 * predict(SMOLLM2, plan, there, WORKLOAD).step_seconds
    )


def test_ties_cost_a_sum_of_both_gradients_between_the_ends() -> None:
    there = Inventory(
        (device("a/0"), device("a/1"), device("b/0", "b")), (Link(("a", "b"), 1e9, 0.5),)
    )
    plan = make_plan(SMOLLM2, there, 3, 1, WORKLOAD)
    apart = predict(SMOLLM2, plan, there, WORKLOAD)
    untied = replace(SMOLLM2, tie_embeddings=False)
    assert predict(untied, plan, there, WORKLOAD).tied_seconds == 0.0
    ends = [stage.ranks[0].device for stage in (plan.stages[0], plan.stages[-1])]
    link = there.link(*map(there.device, ends))
    size = 49152 * 576 * 4
    assert apart.tied_seconds == pytest.approx(link.seconds(size / 2) * 2)


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
    works = [
        (part_of(FINE, layer), layer_work(FINE, whole(FINE), layer, WORKLOAD))
        for layer in range(FINE.layers)
    ]
    assert [part for part, _ in works].count("dense") == 2
    works += [
        (part, work(FINE, whole(FINE), WORKLOAD))
        for part, work in (("embedding", embedding_work), ("head", head_work))
    ]
    predicted = predict(FINE, single(FINE), inventory(1), WORKLOAD)
    assert predicted.stage_seconds == (pytest.approx(sum(seconds(*each) for each in works)),)
    assert seconds(*works[0]) != seconds(*works[1])


def test_a_recomputed_layer_takes_its_forward_again() -> None:
    plan = single(FINE)
    again = replace(plan, stages=(replace(plan.stages[0], recompute=(0, 3)),))
    there = inventory(1)
    before, after = (predict(FINE, each, there, WORKLOAD).stages[0] for each in (plan, again))
    more = sum(
        Pace(CPU_THREAD).seconds("moe", layer_work(FINE, whole(FINE), layer, WORKLOAD), 128)[0]
        for layer in (0, 3)
    )
    assert after.forward == before.forward
    assert after.backward - before.backward == pytest.approx(more)
    assert after.fullness < before.fullness
