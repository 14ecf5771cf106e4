"""The orders of work against those of torch, which runs them."""

from collections import Counter
from types import SimpleNamespace

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
    most_held,
    one_by_one,
)
from tests.examples import examples

SINGLE = {"gpipe": torch_schedules.ScheduleGPipe, "1f1b": torch_schedules.Schedule1F1B}
MULTI = {
    "interleaved-1f1b": torch_schedules.ScheduleInterleaved1F1B,
    "zero-bubble": torch_schedules.ScheduleInterleavedZeroBubble,
    "zbv": torch_schedules.ScheduleZBVZeroBubble,
}


class Recorder:
    """A stage that has nothing to send and notes what the real schedule makes it do."""

    has_backward = True

    def __init__(self, stage: int, stages: int) -> None:
        self.stage_index, self.num_stages = stage, stages
        self.is_first, self.is_last = stage == 0, stage == stages - 1
        self.done: list[Action] = []
        self.finished = False

    def forward_one_chunk(self, micro_batch: int, *_: object, **__: object) -> None:
        self.done.append(Action(FORWARD, self.stage_index, micro_batch))

    def backward_one_chunk(self, micro_batch: int, **_: object) -> None:
        self.done.append(Action(BACKWARD, self.stage_index, micro_batch))

    def get_fwd_recv_ops(self, _: int) -> list[object]:
        return []

    get_fwd_send_ops = get_bwd_recv_ops = get_bwd_send_ops = get_fwd_recv_ops

    def perform_reduce_grad(self, _: int) -> None:
        self.finished = True


def torch_runs(schedule: str, stage: int, stages: int, micro_batches: int) -> Order:
    """Run a step of torch's schedule on one stage and return what it did."""
    recorder = Recorder(stage, stages)
    runner = SINGLE[schedule](recorder, micro_batches)
    runner._stage_forward_initialized = True
    runner._step_microbatches()
    assert recorder.finished
    return tuple(recorder.done)


def torch_orders(schedule: str, stages: int, micro_batches: int, chunks: int) -> tuple[Order, ...]:
    """Return what torch would have every stage do, without its idle slots."""
    parts = [
        SimpleNamespace(
            num_stages=stages * chunks, group_size=stages, group_rank=0, submod=None, is_last=False
        )
        for _ in range(chunks)
    ]
    table = MULTI[schedule](parts, micro_batches).pipeline_order
    return tuple(
        tuple(
            Action(each.computation_type.value, each.stage_index, each.microbatch_index)
            for each in table[stage]
            if each is not None
        )
        for stage in range(stages)
    )


def exists(case: tuple[str, int, int, int]) -> bool:
    try:
        actions(*case)
    except PlanError:
        return False
    return True


every_case = st.tuples(
    st.sampled_from(SCHEDULES), st.integers(1, 7), st.integers(1, 22), st.integers(1, 4)
)
cases = every_case.filter(exists)


@settings(max_examples=examples(150))
@given(st.sampled_from(sorted(SINGLE)), st.integers(1, 8), st.integers(0, 12))
def test_one_chunk_a_stage_works_as_torch_does(schedule: str, stages: int, more: int) -> None:
    micro_batches = stages + more
    for stage, order in enumerate(actions(schedule, stages, micro_batches)):
        assert order == torch_runs(schedule, stage, stages, micro_batches)


@settings(max_examples=examples(200))
@given(cases.filter(lambda case: case[0] in MULTI))
def test_several_chunks_a_stage_work_as_torch_does(case: tuple[str, int, int, int]) -> None:
    assert actions(*case) == torch_orders(*case)


@settings(max_examples=examples(200))
@given(every_case.filter(lambda case: case[0] in MULTI))
def test_refuses_what_torch_refuses(case: tuple[str, int, int, int]) -> None:
    if exists(case):
        torch_orders(*case)
    else:
        with pytest.raises(ValueError, match="requires"):
            torch_orders(*case)


def test_1f1b_asks_for_as_many_micro_batches_as_torch_does() -> None:
    with pytest.raises(PlanError, match="at least 4"):
        actions("1f1b", 4, 3)
    with pytest.raises(ValueError, match="number of stages"):
        torch_runs("1f1b", 0, 4, 3)


@settings(max_examples=examples(150))
@given(cases)
def test_torch_sends_and_receives_without_a_deadlock(case: tuple[str, int, int, int]) -> None:
    schedule, stages, micro_batches, chunks = case
    orders = {
        stage: [
            torch_schedules._Action(
                action.chunk, torch_schedules._ComputationType(action.kind), action.micro_batch
            )
            for action in order
        ]
        for stage, order in enumerate(actions(*case))
    }
    homes = torch_schedules._validate_schedule(orders, stages, stages * chunks, micro_batches)
    folded = [*range(stages), *reversed(range(stages))]
    assert [homes[chunk] for chunk in range(stages * chunks)] == (
        folded if schedule == "zbv" else [chunk % stages for chunk in range(stages * chunks)]
    )
    lowered = torch_schedules._add_send_recv(
        {stage: list(order) for stage, order in orders.items()}, homes.__getitem__, stages * chunks
    )
    run = torch_schedules._simulate_comms_compute(lowered, homes.__getitem__, stages * chunks)
    for stage, order in orders.items():
        assert [each for each in run[stage] if each is not None and each.is_compute_op] == order


@settings(max_examples=examples(100))
@given(cases)
def test_every_piece_of_work_is_done_once(case: tuple[str, int, int, int]) -> None:
    schedule, stages, micro_batches, chunks = case
    backward: tuple[Kind, ...] = (INPUT, WEIGHT) if schedule.startswith("z") else (BACKWARD,)
    done = Counter(action for order in actions(*case) for action in order)
    assert done == Counter(
        Action(kind, chunk, micro_batch)
        for kind in (FORWARD, *backward)
        for chunk in range(stages * chunks)
        for micro_batch in range(micro_batches)
    )


@settings(max_examples=examples(100))
@given(cases)
def test_one_by_one_is_the_same_work_and_one_micro_batch_at_a_time(
    case: tuple[str, int, int, int],
) -> None:
    orders = actions(*case)
    for before, order in zip(orders, one_by_one(orders), strict=True):
        assert sorted(order) == sorted(before)
        assert [action.micro_batch for action in order] == sorted(a.micro_batch for a in before)
        assert most_held(order) <= len({action.chunk for action in order})
        of_first = [action for action in order if action.micro_batch == 0]
        kinds = [action.kind != FORWARD for action in of_first]
        assert kinds == sorted(kinds)
        down = [action.chunk for action in of_first if action.kind == FORWARD]
        assert [a.chunk for a in of_first if a.kind in (BACKWARD, INPUT)] == down[::-1]
        assert down == sorted(down)


@settings(max_examples=examples(100))
@given(cases)
def test_in_flight_counts_what_is_forward_and_not_yet_back(case: tuple[str, int, int, int]) -> None:
    for order, most in zip(actions(*case), in_flight(*case), strict=True):
        held: set[tuple[int, int]] = set()
        sizes = [0]
        for kind, chunk, micro_batch in order:
            if kind == FORWARD:
                held.add((chunk, micro_batch))
            elif kind in (BACKWARD, WEIGHT):
                held.remove((chunk, micro_batch))
            sizes.append(len(held))
        assert not held
        assert most == max(sizes)


@settings(max_examples=examples(50))
@given(st.integers(1, 8), st.integers(1, 4))
def test_in_flight_of_the_known_schedules(stages: int, rounds: int) -> None:
    micro_batches = stages * rounds
    assert in_flight("gpipe", stages, micro_batches) == (micro_batches,) * stages
    assert in_flight("1f1b", stages, micro_batches) == tuple(range(stages, 0, -1))
    assert in_flight("zero-bubble", stages, micro_batches) == (stages,) * stages
    assert max(in_flight("zbv", stages, micro_batches, 2)) <= 2 * stages


@pytest.mark.parametrize(
    ("schedule", "stages", "micro_batches", "chunks", "remedy"),
    [
        ("1F1B", 2, 4, 1, "choose one of gpipe, 1f1b, interleaved-1f1b, zero-bubble, zbv"),
        ("1f1b", 0, 4, 1, "set each to at least 1"),
        ("gpipe", 2, 0, 1, "set each to at least 1"),
        ("interleaved-1f1b", 2, 4, 0, "set each to at least 1"),
        ("1f1b", 2, 4, 2, "set chunks to 1"),
        ("gpipe", 2, 4, 3, "choose interleaved-1f1b or zero-bubble"),
        ("zbv", 2, 4, 1, "set chunks to 2"),
        ("1f1b", 4, 2, 1, "raise the micro-batches or lower the stages"),
        ("interleaved-1f1b", 2, 5, 2, "multiple of 2"),
        ("zero-bubble", 4, 11, 1, "multiple of 4"),
    ],
)
def test_what_does_not_exist_is_refused_with_a_remedy(
    schedule: str, stages: int, micro_batches: int, chunks: int, remedy: str
) -> None:
    with pytest.raises(PlanError, match=remedy):
        actions(schedule, stages, micro_batches, chunks)
