"""The simulator against closed forms, a longest path, torch's messages and bounds of the search."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.pipelining import schedules as torch_schedules

from moe.errors import PlanError
from moe.planning.schedules.schedule import (
    BACKWARD,
    FORWARD,
    INPUT,
    SCHEDULES,
    WEIGHT,
    Action,
    Kind,
    Order,
    actions,
    in_flight,
)
from moe.planning.schedules.simulate import StageTimes, Timeline, makespan_1f1b, play, simulate
from tests.examples import examples

ROUNDING = 1e-9
seconds = st.floats(0, 10)
Case = tuple[str, int, list[StageTimes], int, list[float]]


def stage_times(tail: st.SearchStrategy[float] = seconds) -> st.SearchStrategy[StageTimes]:
    return st.builds(StageTimes, seconds, seconds, tail, st.floats(0, 1))


@st.composite
def cases(draw: st.DrawFn, schedules: Sequence[str] = SCHEDULES) -> Case:
    schedule = draw(st.sampled_from(schedules))
    stages = draw(st.integers(1, 5))
    rounds = draw(st.integers(1, 3))
    few = schedule != "1f1b" and rounds == 1
    micro_batches = draw(st.integers(1, stages)) if few else rounds * stages
    if schedule in ("gpipe", "1f1b"):
        micro_batches += draw(st.integers(0, 5))
        chunks = 1
    else:
        chunks = 2 if schedule == "zbv" else draw(st.integers(1, 3))
    times = draw(st.lists(stage_times(), min_size=stages, max_size=stages))
    hops = draw(st.lists(st.floats(0, 5), min_size=stages, max_size=stages))
    return schedule, chunks, times, micro_batches, hops


def run(case: Case) -> Timeline:
    schedule, chunks, times, micro_batches, hops = case
    return simulate(schedule, times, micro_batches, hops, chunks)


def longest_path(case: Case) -> dict[Action, float]:
    """Return when each piece of work stops: the longest chain of needs that ends with it."""
    schedule, chunks, times, micro_batches, hops = case
    stages = len(times)
    orders = actions(schedule, stages, micro_batches, chunks)
    before = {here: first for order in orders for first, here in pairwise(order)}
    home = {action.chunk: stage for stage, order in enumerate(orders) for action in order}
    split = any(action.kind == INPUT for action in orders[0])
    gradient: Kind = INPUT if split else BACKWARD

    def way(chunk: int, other: int) -> float:
        ends = sorted((home[chunk], home[other]))
        if ends[0] == ends[1]:
            return 0.0
        return hops[ends[0]] if ends[1] - ends[0] == 1 else hops[stages - 1]

    def needs(action: Action) -> Iterator[tuple[Action, float]]:
        kind, chunk, micro_batch = action
        if action in before:
            yield before[action], 0.0
        if kind == FORWARD and chunk > 0:
            yield Action(FORWARD, chunk - 1, micro_batch), way(chunk - 1, chunk)
        if kind == gradient:
            yield Action(FORWARD, chunk, micro_batch), 0.0
            if chunk + 1 < stages * chunks:
                yield Action(gradient, chunk + 1, micro_batch), way(chunk, chunk + 1)
        if kind == WEIGHT:
            yield Action(INPUT, chunk, micro_batch), 0.0

    @cache
    def stop(action: Action) -> float:
        each = times[home[action.chunk]]
        takes = {
            FORWARD: each.forward,
            BACKWARD: each.backward,
            INPUT: each.backward * (1 - each.weight_fraction),
            WEIGHT: each.backward * each.weight_fraction,
        }[action.kind]
        start = max((stop(first) + late for first, late in needs(action)), default=0.0)
        return start + takes / chunks

    return {action: stop(action) for order in orders for action in order}


@settings(max_examples=examples(200))
@given(cases())
def test_equals_the_longest_path(case: Case) -> None:
    stops = longest_path(case)
    timeline = run(case)
    seen = {event.action: event.stop for row in timeline.events for event in row}
    assert seen == pytest.approx(stops, rel=ROUNDING, abs=ROUNDING)
    tails = zip(timeline.events, case[2], strict=True)
    last = max(stops[row[-1].action] + stage.tail for row, stage in tails)
    assert timeline.makespan == pytest.approx(last, rel=ROUNDING, abs=ROUNDING)


def torch_messages(orders: Sequence[Order]) -> list[tuple[int, str, int]]:
    """Return the chunk that receives, what and of which micro-batch, as torch would have it."""
    homes = {action.chunk: stage for stage, order in enumerate(orders) for action in order}
    table = {
        stage: [
            torch_schedules._Action(
                each.chunk, torch_schedules._ComputationType(each.kind), each.micro_batch
            )
            for each in order
        ]
        for stage, order in enumerate(orders)
    }
    lowered = torch_schedules._add_send_recv(table, homes.__getitem__, len(homes))
    return [
        (each.stage_index, each.computation_type.value, each.microbatch_index)
        for order in lowered.values()
        for each in order
        if each.computation_type.value.startswith("RECV")
    ]


@settings(max_examples=examples(100))
@given(cases())
def test_work_starts_when_the_stage_and_the_messages_of_torch_let_it(case: Case) -> None:
    schedule, chunks, times, micro_batches, _ = case
    hop = 1.0
    timeline = simulate(schedule, times, micro_batches, [hop] * len(times), chunks)
    events = {event.action: event for row in timeline.events for event in row}
    gradient: Kind = INPUT if schedule in ("zero-bubble", "zbv") else BACKWARD
    arrivals: dict[Action, float] = {}
    for chunk, what, batch in torch_messages(actions(schedule, len(times), micro_batches, chunks)):
        kind, sender = (FORWARD, chunk - 1) if what == "RECV_F" else (gradient, chunk + 1)
        sent = events[Action(kind, sender, batch)].stop
        arrivals[Action(kind, chunk, batch)] = sent + hop
    for row in timeline.events:
        free = 0.0
        for event in row:
            assert event.start == max(free, arrivals.pop(event.action, 0.0))
            free = event.stop
    assert not arrivals


@settings(max_examples=examples(100))
@given(cases())
def test_stages_do_their_work_in_order_and_one_piece_at_a_time(case: Case) -> None:
    schedule, chunks, times, micro_batches, _ = case
    timeline = run(case)
    orders = actions(schedule, len(times), micro_batches, chunks)
    assert tuple(tuple(event.action for event in row) for row in timeline.events) == orders
    for row in timeline.events:
        assert all(first.stop <= after.start for first, after in pairwise(row))
    assert timeline.peak_in_flight == in_flight(schedule, len(times), micro_batches, chunks)


@settings(max_examples=examples(100))
@given(cases())
def test_busy_and_bubble_make_up_the_step(case: Case) -> None:
    _, _, times, micro_batches, _ = case
    timeline = run(case)
    parts = zip(timeline.busy, timeline.bubble, times, strict=True)
    for busy, bubble, each in parts:
        work = micro_batches * (each.forward + each.backward) + each.tail
        assert busy == pytest.approx(work, rel=ROUNDING, abs=ROUNDING)
        assert 0 <= bubble <= 1
        waits = timeline.makespan * bubble
        assert busy + waits == pytest.approx(timeline.makespan, rel=ROUNDING, abs=ROUNDING)
    assert timeline.makespan >= max(timeline.busy) * (1 - ROUNDING)
    through = sum(each.forward for each in times)
    assert timeline.makespan >= through * (1 - ROUNDING)


@settings(max_examples=examples(150))
@given(cases(), st.data())
def test_more_time_anywhere_never_ends_the_step_sooner(case: Case, data: st.DataObject) -> None:
    schedule, chunks, times, micro_batches, hops = case
    before = run(case).makespan
    more = data.draw(st.floats(0, 5))
    slow = data.draw(st.integers(0, len(times) - 1))
    what = data.draw(st.sampled_from(["forward", "backward", "tail", "hop"]))
    if what == "hop":
        hops = [hop + more * (number == slow) for number, hop in enumerate(hops)]
    else:
        changed = replace(times[slow], **{what: getattr(times[slow], what) + more})
        times = [*times[:slow], changed, *times[slow + 1 :]]
    after = run((schedule, chunks, times, micro_batches, hops)).makespan
    assert after >= before * (1 - ROUNDING)


@settings(max_examples=examples(200))
@given(cases(("1f1b",)))
def test_the_loop_of_the_search_gives_the_identical_float(case: Case) -> None:
    _, _, times, micro_batches, hops = case
    fast = makespan_1f1b(
        [each.forward for each in times],
        [each.backward for each in times],
        hops,
        micro_batches,
        [each.tail for each in times],
    )
    assert fast == run(case).makespan


@settings(max_examples=examples(100))
@given(st.lists(stage_times(st.just(0.0)), min_size=1, max_size=6), st.integers(1, 12))
def test_gpipe_fills_and_drains_twice(times: list[StageTimes], micro_batches: int) -> None:
    forward = [each.forward for each in times]
    backward = [each.backward for each in times]
    expected = sum(forward) + (micro_batches - 1) * max(forward)
    expected += sum(backward) + (micro_batches - 1) * max(backward)
    timeline = simulate("gpipe", times, micro_batches, [0.0] * (len(times) - 1))
    assert timeline.makespan == pytest.approx(expected, rel=ROUNDING, abs=ROUNDING)


@settings(max_examples=examples(100))
@given(stage_times(st.just(0.0)), st.integers(1, 8), st.integers(0, 12))
def test_1f1b_of_equal_stages(each: StageTimes, stages: int, more: int) -> None:
    timeline = simulate("1f1b", [each] * stages, stages + more, [0.0] * (stages - 1))
    expected = (2 * stages - 1 + more) * (each.forward + each.backward)
    assert timeline.makespan == pytest.approx(expected, rel=ROUNDING, abs=ROUNDING)
    waits = (stages - 1) / (2 * stages - 1 + more) if expected else 0.0
    assert timeline.bubble == pytest.approx((waits,) * stages, rel=ROUNDING, abs=ROUNDING)


@settings(max_examples=examples(100))
@given(cases(), stage_times())
def test_one_stage_never_waits(case: Case, each: StageTimes) -> None:
    schedule, chunks, _, micro_batches, _ = case
    timeline = simulate(schedule, [each], micro_batches, [], chunks)
    expected = micro_batches * (each.forward + each.backward) + each.tail
    assert timeline.makespan == pytest.approx(expected, rel=ROUNDING, abs=ROUNDING)


@settings(max_examples=examples(150))
@given(
    stage_times(st.just(0.0)),
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from(
        [("gpipe", 1), ("interleaved-1f1b", 2), ("zero-bubble", 1), ("zero-bubble", 2), ("zbv", 2)]
    ),
)
def test_no_schedule_is_slower_than_1f1b_on_equal_stages_without_hops(
    each: StageTimes, stages: int, rounds: int, other: tuple[str, int]
) -> None:
    schedule, chunks = other
    times, hops = [each] * stages, [0.0] * stages
    plain = simulate("1f1b", times, stages * rounds, hops).makespan
    assert simulate(schedule, times, stages * rounds, hops, chunks).makespan <= plain * (
        1 + ROUNDING
    )


@pytest.mark.parametrize("stages", [2, 3, 4, 8])
def test_zero_bubble_closes_the_bubbles_that_it_claims_to(stages: int) -> None:
    """Forward, input and weights take 1 each: what is left beside the work of one stage."""
    micro_batches, each = 4 * stages, StageTimes(1.0, 2.0)
    times, hops = [each] * stages, [0.0] * stages
    work = 3.0 * micro_batches
    assert simulate("1f1b", times, micro_batches, hops).makespan == work + 3 * (stages - 1)
    assert simulate("zero-bubble", times, micro_batches, hops).makespan == work + stages - 1
    assert simulate("zbv", times, micro_batches, hops, 2).makespan == work + (stages - 1) / 2


def test_hops_are_waited_for_by_the_next_stage_only() -> None:
    times = [StageTimes(1.0, 2.0), StageTimes(3.0, 4.0, tail=0.5)]
    timeline = simulate("1f1b", times, 2, [10.0])
    shown = [
        [(str(event.action), event.start, event.stop) for event in row] for row in timeline.events
    ]
    assert shown == [
        [("0F0", 0, 1), ("0F1", 1, 2), ("0B0", 28, 30), ("0B1", 35, 37)],
        [("1F0", 11, 14), ("1B0", 14, 18), ("1F1", 18, 21), ("1B1", 21, 25)],
    ]
    assert timeline.makespan == 37
    assert timeline.busy == (6, 14.5)


def test_chunks_may_differ_and_go_round_by_the_last_hop() -> None:
    times = [StageTimes(float(chunk + 1), 0.0, tail=1.0) for chunk in range(6)]
    timeline = play(actions("interleaved-1f1b", 3, 1, 2), times, [0.0, 0.0, 100.0])
    starts = {str(event.action): event.start for row in timeline.events for event in row}
    assert [starts[f"{chunk}F0"] for chunk in range(6)] == [0, 1, 3, 106, 110, 115]
    assert starts["0B0"] == 221
    assert timeline.tails == (2.0, 2.0, 2.0)


def test_an_order_of_its_own_may_be_played() -> None:
    order = (Action(FORWARD, 0, 0), Action(FORWARD, 0, 1))
    after = (Action(FORWARD, 1, 1), Action(FORWARD, 1, 0))
    timeline = play((order, after), [StageTimes(1.0, 0.0)] * 2, [0.0])
    assert [event.start for event in timeline.events[1]] == [2, 3]


two = [StageTimes(1.0, 1.0)] * 2
first, second = Action(FORWARD, 0, 0), Action(FORWARD, 1, 0)


@pytest.mark.parametrize(
    ("orders", "times", "hops", "complaint"),
    [
        (((first, Action(BACKWARD, 0, 0)), (second,)), two, [0.0], "stage 0 waits forever"),
        (((Action(WEIGHT, 0, 0),), (second,)), two, [0.0], "stage . waits forever"),
        (((first,), (first, second)), two, [0.0], "on stages 0 and 1"),
        (((first,), (Action(FORWARD, 2, 0),)), two, [0.0], "number chunks from 0"),
        (((first, second), ()), two, [0.0], "give every stage one or more"),
        (((first,), (second,)), two * 2, [0.0], "the times of 4"),
        (((first,), (second,)), two, [], "joined by 1 hops"),
        (((first,), (second,)), two, [-1.0], "negative or not finite"),
        (((first,), (second,)), [StageTimes(float("nan"), 1.0)] * 2, [0.0], "not finite"),
        (((first,), (second,)), [StageTimes(1.0, -1.0)] * 2, [0.0], "negative"),
        (((first,), (second,)), [StageTimes(1.0, 1.0, 0.0, 1.5)] * 2, [0.0], "from 0 to 1"),
    ],
)
def test_what_cannot_be_played_is_refused(
    orders: tuple[Order, ...], times: list[StageTimes], hops: list[float], complaint: str
) -> None:
    with pytest.raises(PlanError, match=complaint):
        play(orders, times, hops)


def test_a_way_round_without_its_hop_is_refused() -> None:
    with pytest.raises(PlanError, match="from the last of 3 stages back to the first"):
        simulate("interleaved-1f1b", [StageTimes(1.0, 1.0)] * 3, 3, [0.0, 0.0], 2)
    with pytest.raises(PlanError, match="not neighbours"):
        play(
            tuple((Action(FORWARD, chunk, 0),) for chunk in (0, 3, 1, 2)),
            [StageTimes(1.0, 1.0)] * 4,
            [0.0] * 4,
        )


def test_the_loop_of_the_search_refuses_what_does_not_exist() -> None:
    with pytest.raises(PlanError, match="at least 2 micro-batches"):
        makespan_1f1b([1.0, 1.0], [1.0, 1.0], [0.0], 1, [0.0, 0.0])
    with pytest.raises(PlanError, match="joined by 1 hops"):
        makespan_1f1b([1.0, 1.0], [1.0, 1.0], [], 2, [0.0, 0.0])


def path_bounds(
    forward: Sequence[float], backward: Sequence[float], hops: Sequence[float], micro_batches: int
) -> Iterator[float]:
    """Return lower bounds of 1F1B: a chain of needs that stays on stage s but for round trips.

    With a = f + b, w = p - s - 1 forwards ahead, P the way from stage 0 to s and back, R the round
    trip of a micro-batch over the stages after s: staying takes P + m a. A round trip instead of
    the work of s meanwhile changes that by R - w f for micro-batch 0, by R - w b for the last and
    by R - w a for one between; trips are w + 1 micro-batches apart.
    """
    stages, m = len(forward), micro_batches
    both = [f + b for f, b in zip(forward, backward, strict=True)]
    for s in range(stages):
        w = stages - s - 1
        reach = sum(both[:s]) + 2 * sum(hops[:s])
        trip = sum(both[s + 1 :]) + 2 * sum(hops[s : stages - 1])
        stay = reach + m * both[s]
        first, last = trip - w * forward[s], trip - w * backward[s]
        between = trip - w * both[s]
        yield stay
        yield stay + first
        yield stay + last
        for trips in range((m - 1) // (w + 1)):
            yield stay + first + last + trips * between


@settings(max_examples=examples(300))
@given(cases(("1f1b",)))
def test_bounds_that_the_search_relies_on(case: Case) -> None:
    _, _, times, micro_batches, hops = case
    forward = [each.forward for each in times]
    backward = [each.backward for each in times]
    whole = makespan_1f1b(forward, backward, hops, micro_batches, [0.0] * len(times))
    bounds = path_bounds(forward, backward, hops, micro_batches)
    assert max(bounds) <= whole * (1 + ROUNDING)


@settings(max_examples=examples(100))
@given(stage_times(), st.integers(1, 8), st.integers(0, 12))
def test_bounds_are_reached_by_equal_stages(each: StageTimes, stages: int, more: int) -> None:
    forward, backward = [each.forward] * stages, [each.backward] * stages
    hops, none = [0.0] * (stages - 1), [0.0] * stages
    whole = makespan_1f1b(forward, backward, hops, stages + more, none)
    bounds = path_bounds(forward, backward, hops, stages + more)
    assert max(bounds) == pytest.approx(whole, rel=ROUNDING, abs=ROUNDING)
