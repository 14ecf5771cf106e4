"""Who sits where, from what living ranks say."""

from dataclasses import replace

import pytest

from actors.commands import BuildCommand, RankStatus
from actors.crew.roster import holding, seated
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from tests import runs
from tests.plans import SMOLLM2

FIRST, SECOND = Seat(0, 0, 0), Seat(0, 1, 0)


def status(seat: Seat | None, epoch: int) -> RankStatus:
    return RankStatus(0, seat is not None, epoch, False, 0, None, 1, seat=seat)


def test_each_seat_is_of_the_life_that_says_so() -> None:
    said = [status(SECOND, 3), None, status(None, 0), status(FIRST, 3)]
    assert seated(said) == {SECOND: 0, FIRST: 3}
    assert seated([None, status(None, 0)]) == {}


def test_of_two_on_one_seat_the_newer_epoch_has_it_and_the_elder_where_they_meet() -> None:
    assert seated([status(FIRST, 3), status(FIRST, 4)]) == {FIRST: 1}
    assert seated([status(FIRST, 3), status(FIRST, 0)]) == {FIRST: 0}
    assert seated([status(FIRST, 3), status(FIRST, 3)]) == {FIRST: 0}


OLD, NEW = runs.plan(SMOLLM2, (15, 15)), runs.plan(SMOLLM2, (10, 20))
STOOD, STANDS = (OLD, 3, False), (NEW, 4, False)
TAKEN, MET = (NEW, 3, True), (NEW, 4, True)


@pytest.mark.parametrize(
    ("said", "plan"),
    [
        ([STOOD, STOOD], OLD),
        ([STOOD, TAKEN], OLD),
        ([TAKEN, STOOD], OLD),
        ([MET, STOOD, TAKEN], OLD),
        ([MET, MET], NEW),
        ([MET, STANDS, STOOD], NEW),
        ([], None),
    ],
)
def test_the_plan_that_holds_is_that_from_which_nobody_can_go_back(
    said: list[tuple[Plan, int, bool]], plan: Plan | None
) -> None:
    pairs = [
        (replace(status(FIRST, epoch), between=between), BuildCommand(own, FIRST, 8))
        for own, epoch, between in said
    ]
    found = holding([(None, None), (status(None, 0), None), *pairs])
    assert (None if found is None else found.plan) == plan
