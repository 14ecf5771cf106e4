"""What a driver posts keeps its order, and a stop reaches the driver."""

import asyncio
from dataclasses import replace

import pytest

from actors.commands import StepReport
from pipelines.training.board import Beginning, Board, Orders, Post
from pipelines.training.rescaled import NotRescaled
from pipelines.training.wishes import Wish
from tests import runs
from tests.plans import SMOLLM2


def test_what_is_shown_is_drained_once_and_in_order() -> None:
    board, plan = Board("tiny"), runs.repeated(runs.plan(SMOLLM2, (15, 15)), 2)
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
        board = Board("tiny")
        draining = asyncio.create_task(board.drain(60.0))
        await asyncio.sleep(0)
        assert not draining.done()
        board.wake() if woken else board.post(report)
        return await asyncio.wait_for(draining, 1.0)

    assert asyncio.run(drain_then_post()) == ([] if woken else [report])


def test_a_run_is_wanted_until_somebody_stops_it() -> None:
    board = Board("tiny")
    assert board.orders() == Orders(True)
    board.stop()
    assert board.orders() == Orders(False)


def test_the_plan_that_was_wished_for_outlives_the_driver_that_met_the_wish() -> None:
    board, plan = Board("tiny"), runs.plan(SMOLLM2, (15, 15))
    assert board.aimed() is None
    board.aim(plan)
    board.follow(runs.repeated(plan, 2))
    assert board.aimed() == plan


def test_one_wish_at_a_time_waits_for_its_answer() -> None:
    first, second = Wish(replicas=2), Wish(nodes=1)
    told = NotRescaled(3, False, "no room")

    async def asked_and_answered() -> None:
        board = Board("tiny")
        assert board.wish(first)
        assert not board.wish(second)
        assert board.orders() == Orders(True, first)
        assert await board.answered(0.0) is None
        waiting = asyncio.create_task(board.answered(60.0))
        await asyncio.sleep(0)
        board.answer(told)
        assert await asyncio.wait_for(waiting, 1.0) == told
        assert board.orders() == Orders(True)
        assert board.wish(second)
        assert await board.answered(0.0) is None

    asyncio.run(asked_and_answered())
