"""Shapes: no floor is above the step that any plan takes, in seconds or in bytes."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.planning.prediction.predict import predict
from moe.planning.search.assemble import unit_costs
from moe.planning.search.shapes import divisors, floor, is_1f1b, least_bytes, rough_seconds
from moe.planning.stages.units import Unit, form_gangs
from tests.every_plan import every_plan
from tests.questions import draw_question

CLOSE = 1 + 1e-9


@given(st.integers(1, 5000))
def test_divisors_are_all_that_divide(number: int) -> None:
    assert divisors(number) == [each for each in range(1, number + 1) if number % each == 0]


@pytest.mark.parametrize("block", range(8))
def test_no_floor_is_above_the_step_of_any_plan(block: int) -> None:
    checked = 0
    for seed in range(block * 25, (block + 1) * 25):
        question = draw_question(6 * 10**6 + seed, training=seed % 4 > 0)
        config, inventory = question.config, question.inventory
        floors = {}
        for each in every_plan(question):
            shape, workload = each.shape, each.workload
            key = shape.gang, shape.micro_batch
            if key not in floors:
                gangs = form_gangs(inventory, shape.gang)
                floors[key] = floor(
                    config,
                    [unit_costs(config, inventory, workload, Unit((gang,))) for gang in gangs],
                )
            one_by_one = is_1f1b(workload)
            least = floors[key]
            count = workload.micro_batches
            assert least.step_seconds(shape.stages, count, one_by_one) <= each.seconds * CLOSE
            rough = rough_seconds(least.total, shape.stages, count, one_by_one)
            assert rough <= each.seconds * CLOSE
            checked += 1
    assert checked > 500


@pytest.mark.parametrize("seed", range(60))
def test_no_plan_takes_fewer_bytes_than_weights_and_states_spread_evenly(seed: int) -> None:
    question = draw_question(7 * 10**6 + seed, 5, 4)
    random, plans = Random(seed), list(every_plan(question))
    for each in random.sample(plans, min(5, len(plans))):
        predicted = predict(question.config, each.plan, question.inventory, each.workload)
        ranks = each.shape.gang * each.shape.stages
        least = least_bytes(question.config, ranks, each.shape.replicas, each.workload)
        assert least <= max(need.total for need in predicted.rank_bytes)


def test_a_floor_is_near_the_step_of_balanced_stages() -> None:
    """A floor of nothing would pass the test above."""
    parts = []
    for seed in range(200):
        question = draw_question(6 * 10**6 + seed)
        if not is_1f1b(question.workload):
            continue
        config, inventory = question.config, question.inventory
        plans = list(every_plan(question))
        if not plans:
            continue
        best = min(plans, key=lambda each: each.seconds)
        gangs = form_gangs(inventory, best.shape.gang)
        least = floor(
            config, [unit_costs(config, inventory, best.workload, Unit((each,))) for each in gangs]
        )
        seconds = least.step_seconds(best.shape.stages, best.workload.micro_batches, True)
        parts.append(seconds / best.seconds)
    assert sum(parts) / len(parts) > 0.5
