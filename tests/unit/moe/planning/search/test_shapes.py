"""Shapes: no floor is above the step that any plan takes, in seconds or in bytes."""

from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.planning.counts.workload import Workload
from moe.planning.prediction.predict import predict
from moe.planning.search.assemble import unit_costs
from moe.planning.search.question import Question
from moe.planning.search.shapes import (
    Floor,
    Shape,
    divisors,
    floor,
    is_1f1b,
    least_bytes,
    rough_seconds,
)
from moe.planning.search.traffic import Traffic, quickest_links, runs_of, traffic
from moe.planning.stages.units import Unit, alike_gangs, form_gangs
from tests.every_plan import every_plan
from tests.questions import draw_question

CLOSE = 1 + 1e-9


@given(st.integers(1, 5000))
def test_divisors_are_all_that_divide(number: int) -> None:
    assert divisors(number) == [each for each in range(1, number + 1) if number % each == 0]


def floor_of(question: Question, workload: Workload, size: int) -> Floor:
    inventory = question.inventory
    gangs = form_gangs(inventory, size)
    kinds = alike_gangs(inventory, gangs)
    costs = [unit_costs(question.config, inventory, workload, Unit((each[0],))) for each in kinds]
    return floor(question.config, costs, [len(each) for each in kinds])


def sent_by(question: Question, workload: Workload, shape: Shape) -> Traffic:
    gangs = form_gangs(question.inventory, shape.gang)
    ranks, links = (shape.gang, shape.replicas), quickest_links(question.inventory)
    return traffic(question.config, workload, ranks, runs_of(gangs), links)


@pytest.mark.parametrize("block", range(8))
def test_no_floor_is_above_the_step_of_any_plan(block: int) -> None:
    checked = sending = 0
    for seed in range(block * 25, (block + 1) * 25):
        question = draw_question(6 * 10**6 + seed, training=seed % 4 > 0)
        floors, sent = {}, {}
        for each in every_plan(question):
            shape, workload = each.shape, each.workload
            key = shape.gang, shape.micro_batch
            if key not in floors:
                floors[key] = floor_of(question, workload, shape.gang)
            if shape not in sent:
                sent[shape] = sent_by(question, workload, shape)
            one_by_one = is_1f1b(workload)
            least, count, stages = floors[key], workload.micro_batches, shape.stages
            assert least.step_seconds(stages, count, one_by_one) <= each.seconds * CLOSE
            closer = least.step_seconds(stages, count, one_by_one, sent[shape])
            assert closer <= each.seconds * CLOSE
            sending += closer > least.step_seconds(stages, count, one_by_one)
            slowest = least.slowest_block(stages * shape.replicas)
            total = least.total + sent[shape].all_hops(stages)
            rough = rough_seconds(total, stages, count, one_by_one, slowest)
            assert rough <= each.seconds * CLOSE
            checked += 1
    assert checked > 500
    assert sending > 100


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
        plans = list(every_plan(question))
        if not plans:
            continue
        best = min(plans, key=lambda each: each.seconds)
        least = floor_of(question, best.workload, best.shape.gang)
        sent = sent_by(question, best.workload, best.shape)
        count = best.workload.micro_batches
        parts.append(least.step_seconds(best.shape.stages, count, True, sent) / best.seconds)
    assert sum(parts) / len(parts) > 0.5


def test_no_way_takes_forever_however_few_the_micro_batches() -> None:
    for one_by_one in (False, True):
        assert rough_seconds(inf, 1, 1, one_by_one) == inf
        assert rough_seconds(inf, 2, 4, one_by_one) == inf
