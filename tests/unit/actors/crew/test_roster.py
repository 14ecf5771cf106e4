"""Who sits where, from what living ranks say."""

from actors.commands import RankStatus
from actors.crew.roster import seated
from moe.planning.plan.seats import Seat

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
