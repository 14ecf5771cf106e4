"""Spans of layers: which stage holds which, what is refused, which schedules go through them."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moe.config.run.train import Schedule
from moe.errors import PlanError
from moe.planning.plan.chunks import chunk_homes
from moe.planning.plan.plan import LayerExperts, Plan
from moe.planning.plan.seats import Seat
from moe.planning.schedules.schedule import SCHEDULES, actions, check_schedule
from tests import runs
from tests.examples import examples
from tests.plans import SMOLLM2, any_plans, configs, single

SOME = settings(max_examples=examples(60))


def holding(*stages: tuple[tuple[int, int], ...]) -> Plan:
    """Return a plan of one rank a stage with these spans of layers."""
    (whole,) = single(SMOLLM2).stages
    made = (replace(whole, layers=first, more=tuple(more)) for first, *more in stages)
    return Plan(SMOLLM2.summary(), tuple(made))


ONE = holding(((0, 12),), ((12, 30),))
LOOP = holding(((0, 5), (12, 20)), ((5, 12), (20, 30)))
FOLD = holding(((0, 5), (20, 30)), ((5, 12), (12, 20)))
THRICE = holding(((0, 5), (12, 20), (22, 26)), ((5, 12), (20, 22), (26, 30)))


@pytest.mark.parametrize(
    ("stages", "chunks", "folded", "homes"),
    [
        (3, 1, False, [0, 1, 2]),
        (3, 2, False, [0, 1, 2, 0, 1, 2]),
        (3, 2, True, [0, 1, 2, 2, 1, 0]),
        (2, 3, False, [0, 1, 0, 1, 0, 1]),
        (1, 2, True, [0, 0]),
    ],
)
def test_chunks_go_round_or_down_and_up(
    stages: int, chunks: int, folded: bool, homes: list[int]
) -> None:
    assert [stage for stage, _ in chunk_homes(stages, chunks, folded)] == homes


@pytest.mark.parametrize(
    ("plan", "chunks", "folded", "homes"),
    [
        (ONE, 1, False, [0, 1]),
        (LOOP, 2, False, [0, 1, 0, 1]),
        (FOLD, 2, True, [0, 1, 1, 0]),
        (THRICE, 3, False, [0, 1, 0, 1, 0, 1]),
    ],
)
def test_a_plan_knows_its_order(plan: Plan, chunks: int, folded: bool, homes: list[int]) -> None:
    assert (plan.chunks, plan.folded) == (chunks, folded)
    assert [plan.home(chunk) for chunk in range(len(homes))] == homes
    assert plan.home(-1) == homes[-1]
    assert [plan.chunks_of(stage) for stage in (0, 1)] == [
        tuple(chunk for chunk, home in enumerate(homes) if home == stage) for stage in (0, 1)
    ]


def test_the_ends_are_where_the_first_and_the_last_layer_are() -> None:
    ends = [(share.embedding, share.head) for share in map(FOLD.share, FOLD.seats)]
    assert ends == [(True, True), (False, False)]
    ends = [(share.embedding, share.head) for share in map(LOOP.share, LOOP.seats)]
    assert ends == [(True, False), (False, True)]


@SOME
@given(st.data())
def test_chunks_follow_each_other_and_are_where_the_spans_are(data: st.DataObject) -> None:
    config = data.draw(configs())
    plan = data.draw(any_plans(config))
    spans_of = plan.chunk_spans
    assert spans_of[0][0] == 0
    assert spans_of[-1][1] == config.layers
    assert all(one[1] == two[0] for one, two in pairwise(spans_of))
    for number, stage in enumerate(plan.stages):
        assert stage.spans == tuple(spans_of[chunk] for chunk in plan.chunks_of(number))
        assert plan.share(Seat(0, number, 0)).spans == stage.spans
        assert all(plan.home(chunk) == number for chunk in plan.chunks_of(number))


@SOME
@given(st.data())
def test_a_schedule_that_suits_a_plan_works_where_the_plan_holds(data: st.DataObject) -> None:
    """Plan and schedule say in two places which stage has which chunk."""
    plan = data.draw(any_plans(data.draw(configs())))
    schedule, count = data.draw(st.sampled_from(SCHEDULES)), data.draw(st.integers(1, 12))
    try:
        plan.check_schedule(schedule, count)
    except PlanError:
        assume(False)
    for stage, order in enumerate(actions(schedule, len(plan.stages), count, plan.chunks)):
        assert {action.chunk for action in order} == set(plan.chunks_of(stage))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            [((0, 5),), ((5, 12), (12, 30))],
            "stage 1 holds 2 spans of layers, stage 0 holds 1; give",
        ),
        (
            [((0, 5), (13, 20)), ((5, 12), (20, 30))],
            r"span 1 of stage 0, chunk 2, holds layers \[13",
        ),
        ([((0, 5), (20, 30)), ((5, 11), (12, 20))], r"\[12, 20\) but layer 11 is next"),
        ([((0, 5), (12, 20)), ((5, 12), (20, 20))], r"\[20, 20\) but layer 20 is next"),
        ([((0, 5), (12, 20)), ((20, 30), (5, 12))], "span 0 of stage 1, chunk 1"),
        ([((0, 5), (12, 20)), ((5, 12), (20, 29))], "hold 29 layers but the model has 30"),
        ([((0, 5), (12, 20)), ((5, 12), (21, 30))], r"k mod 2, or on a V: .* s and 3 - s"),
        (
            [((0, 9),), ((10, 30),)],
            r"stage 1 holds layers \[10, 30\) but layer 9 is next; give",
        ),
    ],
)
def test_spans_that_leave_gaps_are_refused(
    stages: list[tuple[tuple[int, int], ...]], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        holding(*stages)


def test_a_layer_between_two_spans_is_not_the_stages() -> None:
    first, second = LOOP.stages
    replace(LOOP, stages=(replace(first, recompute=(4, 12)), second))
    with pytest.raises(PlanError, match=r"0: recompute names layer 5, .* \[0, 5\), \[12, 20\)"):
        replace(LOOP, stages=(replace(first, recompute=(5,)), second))
    with pytest.raises(PlanError, match=r"0: placement names layer 5, .* \[0, 5\), \[12, 20\)"):
        replace(LOOP, stages=(replace(first, expert_layout=(LayerExperts(5, ((),)),)), second))


@pytest.mark.parametrize(
    ("plan", "schedule", "count", "message"),
    [
        (LOOP, "1f1b", 4, "1f1b needs one span .* set the schedule to interleaved-1f1b"),
        (FOLD, "gpipe", 4, "gpipe needs one span of layers a stage, .* set the schedule to zbv"),
        (ONE, "zbv", 4, "zbv needs 2 spans .*, folded to a V, .* plan.chunks = 2, or .* to 1f1b"),
        (THRICE, "zbv", 4, "zbv needs 2 spans of layers a stage, folded .* has 3 spans"),
        (LOOP, "zbv", 4, "zbv goes down a V and up again, but .* in a loop; make the plan anew"),
        (FOLD, "zero-bubble", 4, "zero-bubble goes through the stages in a loop, .* to zbv"),
        (LOOP, "interleaved-1f1b", 5, "set micro-batches to a multiple of 2"),
        (ONE, "1f1b", 1, "needs at least 2 micro-batches but has 1"),
        (ONE, "2f2b", 4, "no schedule '2f2b'; choose one of gpipe, "),
    ],
)
def test_a_schedule_that_does_not_suit_is_refused(
    plan: Plan, schedule: str, count: int, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        plan.check_schedule(schedule, count)


@pytest.mark.parametrize(
    ("plan", "schedules"),
    [
        (ONE, {"gpipe", "1f1b", "interleaved-1f1b", "zero-bubble"}),
        (LOOP, {"interleaved-1f1b", "zero-bubble"}),
        (FOLD, {"zbv"}),
        (holding(((0, 9), (9, 30))), {"interleaved-1f1b", "zero-bubble", "zbv"}),
    ],
)
def test_each_order_has_its_schedules(plan: Plan, schedules: set[str]) -> None:
    for schedule in schedules:
        plan.check_schedule(schedule, 4)
        check_schedule(schedule, len(plan.stages), 4, plan.chunks)
    for schedule in set(SCHEDULES) - schedules:
        with pytest.raises(PlanError):
            plan.check_schedule(schedule, 4)


def test_tied_rows_must_agree_only_between_two_stages() -> None:
    rows = (16384, 32768)
    first, second = runs.splitting(runs.plan(SMOLLM2, (12, 18), (2, 1)), rows).stages
    whole = tuple(replace(rank, vocabulary=None) for rank in second.ranks)
    folded = (
        replace(first, layers=(0, 5), more=((20, 30),)),
        replace(second, layers=(5, 12), more=((12, 20),), ranks=whole),
    )
    Plan(SMOLLM2.summary(), folded).check_model(SMOLLM2)
    looped = (replace(folded[0], more=((12, 20),)), replace(folded[1], more=((20, 30),)))
    with pytest.raises(PlanError, match="ties embedding and head, but rank 0"):
        Plan(SMOLLM2.summary(), looped).check_model(SMOLLM2)


def test_a_run_file_knows_the_schedules() -> None:
    assert Schedule.__args__ == SCHEDULES  # type: ignore[attr-defined]
