"""Bounds: never above what the simulator plays, for whole pipelines and for their last stages."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.errors import PlanError
from moe.planning.counts.workload import Workload
from moe.planning.prediction.predict import Prediction
from moe.planning.search.bounds import Bounds, State, Times, bounds_of
from moe.planning.stages.gang import StageCost
from tests.examples import examples

WORKLOAD = Workload(sequence_length=8, micro_batch=1, micro_batches=1)
CLOSE = 1 + 1e-9

seconds = st.one_of(st.floats(0, 10), st.integers(0, 5).map(float))
stages = st.lists(st.builds(Times, seconds, seconds, seconds, seconds), min_size=1, max_size=6)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Workload, list[Times]]:
    times = draw(stages)
    training, schedule = draw(st.booleans()), draw(st.sampled_from(["1f1b", "gpipe"]))
    least = len(times) if training and schedule == "1f1b" else 1
    count = draw(st.integers(least, 14))
    return replace(WORKLOAD, micro_batches=count, training=training, schedule=schedule), times


def state_of(bounds: Bounds, times: list[Times]) -> State:
    state = bounds.nothing
    for behind, stage in enumerate(reversed(times)):
        state = bounds.before(state, stage, behind)
    return state


def played(workload: Workload, times: list[Times]) -> float:
    """Return what the simulator says of stages whose ways are in their times."""
    costs = tuple(StageCost(*each, fullness=0.5) for each in times)
    return Prediction(costs, (0.0,) * (len(times) - 1), 0.0, (), workload).step_seconds


@settings(max_examples=examples(400))
@given(cases())
def test_no_bound_is_above_the_schedule(case: tuple[Workload, list[Times]]) -> None:
    workload, times = case
    bounds = bounds_of(workload)
    step = bounds.exact(times)
    assert step == pytest.approx(played(workload, times), rel=1e-12)
    assert bounds.least(state_of(bounds, times)) <= step * CLOSE
    for number in range(len(times)):
        assert bounds.least(state_of(bounds, times[number:])) <= step * CLOSE


@settings(max_examples=examples(400))
@given(cases(), st.data())
def test_the_least_of_each_entry_bounds_every_way_to_go_on(
    case: tuple[Workload, list[Times]], data: st.DataObject
) -> None:
    """Mix the states of two ends into one: it bounds both, whatever comes before."""
    workload, times = case
    bounds = bounds_of(workload)
    cut = data.draw(st.integers(0, len(times) - 1))
    other = data.draw(st.lists(st.sampled_from(times), min_size=len(times), max_size=len(times)))
    mixed = tuple(map(min, state_of(bounds, times[cut:]), state_of(bounds, other[cut:])))
    for stage in range(cut - 1, -1, -1):
        mixed = bounds.before(mixed, times[stage], len(times) - 1 - stage)
    for end in (times[cut:], other[cut:]):
        assert bounds.least(mixed) <= played(workload, times[:cut] + end) * CLOSE


def test_the_bound_of_1f1b_is_mostly_the_step() -> None:
    random, equal, near = Random(0), 0, 0
    for _ in range(1000):
        count = random.randint(1, 6)
        times = [Times(random.random(), 2 * random.random(), 0.1, 0.1) for _ in range(count)]
        bounds = bounds_of(replace(WORKLOAD, micro_batches=random.randint(count, 16)))
        part = bounds.least(state_of(bounds, times)) / bounds.exact(times)
        equal += part >= 1 - 1e-9
        near += part >= 0.95
    assert equal >= 800
    assert near >= 980


@settings(max_examples=examples(200))
@given(stages, st.integers(1, 14))
def test_the_bounds_of_gpipe_and_of_serving_are_the_step(
    times: list[Times], micro_batches: int
) -> None:
    even = [each._replace(reduce=0.0) for each in times]
    for changes in ({"schedule": "gpipe"}, {"training": False}):
        workload = replace(WORKLOAD, micro_batches=micro_batches, **changes)
        bounds = bounds_of(workload)
        least = bounds.least(state_of(bounds, even))
        if changes.get("schedule") != "gpipe":
            assert least == pytest.approx(bounds.exact(even), rel=1e-12)
        assert least <= bounds.exact(even) * CLOSE


@pytest.mark.parametrize("schedule", ["interleaved-1f1b", "zero-bubble", "zbv"])
def test_other_schedules_are_not_searched(schedule: str) -> None:
    with pytest.raises(PlanError, match=f"searched for 1f1b and gpipe, not for {schedule}; plan"):
        bounds_of(replace(WORKLOAD, schedule=schedule))
