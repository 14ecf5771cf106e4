"""All drivers of a run stop after the same step, and what they show keeps its order."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.commands import StepReport
from pipelines.training.board import Beginning, Board, Post
from tests import runs
from tests.plans import SMOLLM2


def test_what_is_shown_is_drained_once_and_in_order() -> None:
    board, plan = Board(), runs.repeated(runs.plan(SMOLLM2, (15, 15)), 2)
    assert board.plan() is None
    report = StepReport(1, 2.0, 1.0, 1e-3, 10, 1.0, {}, ())
    board.begin(plan, 0)
    board.post(report)
    board.begin(plan, 1)
    board.post(replace(report, step=2))
    posts = [Beginning(4, 0), report, Beginning(4, 1), replace(report, step=2)]
    assert asyncio.run(board.drain(0.0)) == posts
    assert asyncio.run(board.drain(0.0)) == []
    assert board.plan() == plan


@pytest.mark.parametrize("woken", [False, True])
def test_who_drains_waits_until_something_is_posted_or_the_run_ends(woken: bool) -> None:
    report = StepReport(1, 2.0, 1.0, 1e-3, 10, 1.0, {}, ())

    async def drain_then_post() -> list[Post]:
        board = Board()
        draining = asyncio.create_task(board.drain(60.0))
        await asyncio.sleep(0)
        assert not draining.done()
        board.wake() if woken else board.post(report)
        return await asyncio.wait_for(draining, 1.0)

    assert asyncio.run(drain_then_post()) == ([] if woken else [report])


def test_who_was_let_into_a_step_lets_the_others_into_it() -> None:
    board = Board()
    assert board.done(3)
    board.stop()
    assert not board.wanted()
    assert board.done(3)
    assert not board.done(4)


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 59))
def test_drivers_never_part(turns: list[int], stopped_at: int) -> None:
    """Drivers go on in any order, never two steps apart, as a step needs them all."""
    board, done, going = Board(), [0, 0, 0, 0], [True] * 4
    for turn, driver in enumerate([*turns, *[0, 1, 2, 3] * 4]):
        if turn == stopped_at:
            board.stop()
        if going[driver] and done[driver] == min(done):
            done[driver] += 1
            going[driver] = board.done(done[driver])
    board.stop()
    for driver in [0, 1, 2, 3] * 4:
        if going[driver] and done[driver] == min(done):
            done[driver] += 1
            going[driver] = board.done(done[driver])
    assert not any(going)
    assert len(set(done)) == 1
