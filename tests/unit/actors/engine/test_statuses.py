"""What all ranks' statuses say together, case by case."""

from dataclasses import replace

import pytest

from actors.commands import RankReport, RankStatus
from actors.engine import statuses
from actors.engine.statuses import GRACE_SECONDS, Settling

RANK = RankStatus(0, built=True, epoch=2, joined=True, step=3, report=None, pid=1, replicas=2)
OTHER = replace(RANK, rank=1)
REPORT = RankReport(0, 3, 1.5, 1.0, 0.1, {}, 0.5, 100)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"step": 4}, True),
        ({"step": 5}, False),
        ({"joined": False}, False),
        ({"epoch": 1}, False),
        ({"saving": 3}, False),
        ({"busy": True}, True),
    ],
)
def test_a_new_driver_takes_over_ranks_of_one_epoch_in_one_step_or_the_next(
    change: dict[str, object], expected: bool
) -> None:
    assert statuses.can_be_driven([RANK, replace(OTHER, **change)]) is expected


def test_ranks_of_another_number_of_replicas_are_not_taken_over() -> None:
    assert statuses.built_for([RANK, OTHER], 2)
    assert not statuses.built_for([RANK, OTHER], 1)
    assert not statuses.built_for([RANK, replace(OTHER, built=False)], 2)


def test_the_last_report_is_that_of_a_step_that_all_have_done() -> None:
    done = [replace(RANK, report=REPORT), replace(OTHER, report=replace(REPORT, rank=1))]
    assert statuses.reports_of_last_step(done) == [REPORT, replace(REPORT, rank=1)]
    assert statuses.reports_of_last_step([done[0], OTHER]) is None
    ahead = replace(OTHER, report=replace(REPORT, step=4))
    assert statuses.reports_of_last_step([done[0], ahead]) is None


def test_a_step_that_all_are_in_is_waited_for_and_another_only_a_moment() -> None:
    busy = [replace(RANK, busy=True), replace(OTHER, busy=True)]
    split = [busy[0], OTHER]
    settling = Settling(100.0, 20.0)
    assert settling.waits(busy, 110.0)
    assert settling.waits(split, 110.0 + GRACE_SECONDS)
    assert not settling.waits(split, 110.1 + GRACE_SECONDS)
    assert not settling.waits(busy, 120.1), "no longer than the group deadline"


def test_nobody_waits_for_ranks_that_are_idle_or_have_left() -> None:
    settling = Settling(0.0, 20.0)
    assert not settling.waits([RANK, OTHER], 0.0)
    assert not settling.waits([replace(RANK, busy=True), replace(OTHER, joined=False)], 0.0)
