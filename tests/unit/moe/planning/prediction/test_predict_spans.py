"""Predictions of stages with several spans of layers: memory and steps, counted again by hand."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.errors import PlanError
from moe.planning.counts.activations import block_activations
from moe.planning.counts.memory import head_floats, rank_bytes
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.links import Link
from moe.planning.plan.plan import Plan
from moe.planning.prediction.positions import plan_positions
from moe.planning.prediction.predict import Prediction, predict
from moe.planning.schedules.schedule import actions
from moe.planning.search.interleave import interleave
from moe.planning.stages.gang import StageCost
from moe.planning.stages.member import Member, MemberCosts
from tests import runs
from tests.examples import examples
from tests.plans import SMOLLM2, configs, device, inventory, plans, suiting

WORKLOAD = Workload(sequence_length=16, micro_batch=2, micro_batches=6)
ROUNDED = 2
"""Bytes by which sums of the same numbers in another order may differ."""


@st.composite
def several(draw: st.DrawFn) -> tuple[object, Plan, Workload]:
    config = draw(configs().filter(lambda config: config.layers > 1))
    plan = draw(plans(config, draw(st.integers(2, min(3, config.layers)))))
    work = replace(WORKLOAD, micro_batches=len(plan.stages) * draw(st.integers(1, 3)))
    if not plan.folded and draw(st.booleans()):
        return config, plan, replace(work, schedule="zero-bubble")
    return config, plan, suiting(plan, work)


@settings(max_examples=examples(80))
@given(several())
def test_what_is_kept_is_what_the_order_of_work_keeps(drawn) -> None:  # type: ignore[no-untyped-def]
    """Walk through the work of a stage and add up what every forward leaves behind."""
    config, plan, work = drawn
    positions = plan_positions(plan, work)
    orders = actions(work.schedule, len(plan.stages), work.micro_batches, plan.chunks)
    for seat in plan.seats.of_replica(0):
        number, share = seat.stage, plan.share(seat)
        again = plan.stages[number].recompute
        kept = {
            chunk: sum(
                work.numerics.stretch * config.hidden_size
                if layer in again
                else block_activations(config, share, layer, work)
                for layer in range(*span)
            )
            for chunk, span in zip(plan.chunks_of(number), plan.stages[number].spans, strict=True)
        }
        held = most = 0.0
        for action in orders[number]:
            held += {"F": 1, "B": -1, "I": 0, "W": -1}[action.kind] * kept[action.chunk]
            most = max(most, held)
        whole = max((block_activations(config, share, layer, work) for layer in again), default=0.0)
        numbers = (most + whole) * work.tokens
        numbers += head_floats(config, share, work) if share.head else 0
        need = rank_bytes(config, share, positions[number], work, again)
        assert need.activations == pytest.approx(work.numerics.activation * numbers, abs=ROUNDED)
        member = MemberCosts(config, inventory(1), work, Member(share, inventory(1).devices))
        taken = member.bytes(share.spans, positions[number], again)
        assert abs(taken - need.total) <= ROUNDED


@settings(max_examples=examples(40))
@given(several())
def test_tensors_come_from_other_stages_only(drawn) -> None:  # type: ignore[no-untyped-def]
    config, plan, work = drawn
    inputs, gradients = Counter[int](), Counter[int]()
    homes = [plan.home(chunk) for chunk in range(len(plan.chunk_spans))]
    for one, other in pairwise(homes):
        inputs[other] += one != other
        gradients[one] += one != other
    for stage, position in enumerate(plan_positions(plan, work)):
        assert position.arrivals == (inputs[stage], gradients[stage])
    one = work.tokens * config.hidden_size * work.numerics.message
    positions = plan_positions(plan, work)
    needs = predict(config, plan, inventory(plan.ranks), work).rank_bytes
    for seat, need in zip(plan.seats.of_replica(0), needs, strict=True):
        stage = seat.stage
        held = positions[stage].in_flight
        into = 2 * (held + 2 * inputs[stage]) if inputs[stage] else 0
        back = held + 3 * gradients[stage] if gradients[stage] else 0
        assert need.buffers == one * (into + back)


def costs(*stages: tuple[tuple[float, float], ...]) -> tuple[StageCost, ...]:
    """Return stages of spans that take these seconds forward and backward."""
    return tuple(
        StageCost(sum(f for f, _ in spans), sum(b for _, b in spans), 0.5, 0.25, 0.5, (), spans)
        for spans in stages
    )


def test_a_single_micro_batch_passes_all_chunks_and_ways_in_turn() -> None:
    work = replace(WORKLOAD, micro_batches=1, schedule="interleaved-1f1b")
    stages = costs(((1.0, 2.0), (3.0, 4.0)), ((5.0, 6.0), (7.0, 8.0)))
    predicted = Prediction(stages, (0.1, 0.2, 0.3), 0.0, (), work, chunks=2)
    assert predicted.stage_seconds == (10.0, 26.0)
    last = 0.5
    assert predicted.timeline.makespan == pytest.approx(36.0 + 2 * 0.6 + last)
    assert predicted.step_seconds == pytest.approx(36.0 + 2 * 0.6 + last + 0.25)
    order = [event.action.chunk for event in predicted.timeline.events[0]]
    assert order == [0, 2, 2, 0]


def test_on_a_v_the_turn_costs_no_way() -> None:
    """The weights' gradients come after what others wait for, so they end later than the ways."""
    work = replace(WORKLOAD, micro_batches=1, schedule="zbv")
    stages = costs(((1.0, 2.0), (1.0, 2.0)), ((1.0, 2.0), (1.0, 2.0)))
    predicted = Prediction(stages, (0.25, 0.0, 0.25), 0.0, (), work, chunks=2, folded=True)
    first, second = predicted.timeline.events
    turns = [event for event in second if event.action.kind == "F"]
    assert [event.action.chunk for event in turns] == [1, 2]
    assert turns[1].start == turns[0].stop
    assert [event.action.chunk for event in first if event.action.kind == "F"] == [0, 3]


def test_ways_are_those_between_the_stages_of_neighbouring_chunks() -> None:
    there = Inventory(
        tuple(device(f"{node}/0", node) for node in "abc"),
        (Link(("a", "b"), 1e9, 0.01), Link(("b", "c"), 1e9, 0.02), Link(("a", "c"), 1e9, 0.04)),
    )
    named = runs.plan(SMOLLM2, (10, 10, 10))
    stages = (
        replace(stage, ranks=(replace(stage.ranks[0], devices=(f"{node}/0",)),))
        for stage, node in zip(named.stages, "abc", strict=True)
    )
    plan = replace(named, stages=tuple(stages))
    work = replace(WORKLOAD, schedule="interleaved-1f1b")
    loop = predict(SMOLLM2, interleave(plan, 2), there, work)
    sent = loop.hops[0] - 0.01
    assert loop.hops == pytest.approx([sent + way for way in (0.01, 0.02, 0.04, 0.01, 0.02)])
    assert loop.tied_seconds > 0
    folded = predict(SMOLLM2, interleave(plan, 2, True), there, replace(work, schedule="zbv"))
    assert folded.hops == pytest.approx([sent + 0.01, sent + 0.02, 0, sent + 0.02, sent + 0.01])
    assert folded.tied_seconds == 0.0


@settings(max_examples=examples(40))
@given(several())
def test_runs_of_a_stage_add_up_to_the_stage(drawn) -> None:  # type: ignore[no-untyped-def]
    config, plan, work = drawn
    predicted = predict(config, plan, inventory(plan.ranks), work)
    for stage, cost in enumerate(predicted.stages):
        assert len(cost.spans) == plan.chunks
        assert cost.forward == pytest.approx(sum(forward for forward, _ in cost.spans))
        assert cost.backward == pytest.approx(sum(backward for _, backward in cost.spans))
        busy = work.micro_batches * cost.seconds
        ways = zip((0.0, *predicted.hops), (*predicted.hops, 0.0), strict=True)
        waited = sum(
            way for chunk, both in enumerate(ways) if plan.home(chunk) == stage for way in both
        )
        busy += work.micro_batches * waited
        assert predicted.timeline.busy[stage] == pytest.approx(busy)


def test_a_schedule_that_does_not_suit_and_serving_are_refused() -> None:
    plan = interleave(runs.plan(SMOLLM2, (15, 15)), 2)
    there = Inventory((device("test"),))
    with pytest.raises(
        PlanError, match="1f1b needs one span of layers a stage, but the plan has 2"
    ):
        predict(SMOLLM2, plan, there, WORKLOAD)
    serving = replace(WORKLOAD, training=False)
    with pytest.raises(PlanError, match="2 spans of layers a stage, which is for training"):
        predict(SMOLLM2, plan, there, serving)
