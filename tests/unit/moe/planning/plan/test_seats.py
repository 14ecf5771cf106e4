"""One rule numbers the seats of a plan."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import PlanError
from moe.planning.plan.seats import Seat, Seats

sizes = st.builds(Seats, *[st.integers(1, 5)] * 3)


@given(sizes)
def test_ranks_count_replicas_then_stages_then_members(seats: Seats) -> None:
    counted = product(range(seats.replicas), range(seats.stages), range(seats.gang))
    assert list(seats) == [Seat(*each) for each in counted]
    assert [seats.rank(seat) for seat in seats] == list(range(len(seats)))


@given(sizes)
def test_groups_of_a_seat_split_the_seats(seats: Seats) -> None:
    for group in (seats.gang_of, seats.data_group_of):
        members = {group(seat) for seat in seats}
        assert sorted(seat for each in members for seat in each) == sorted(seats)
        assert all(seat in group(seat) for seat in seats)
    assert [seat for n in range(seats.replicas) for seat in seats.of_replica(n)] == list(seats)


@pytest.mark.parametrize("rank", [-1, 12])
def test_a_rank_that_does_not_exist_is_refused(rank: int) -> None:
    with pytest.raises(PlanError, match=f"rank {rank} of 12"):
        Seats(2, 3, 2).seat(rank)


@pytest.mark.parametrize("seat", [Seat(2, 0, 0), Seat(0, 3, 0), Seat(0, 0, 2), Seat(0, -1, 0)])
def test_a_seat_that_does_not_exist_is_refused(seat: Seat) -> None:
    with pytest.raises(PlanError, match="2 replicas x 3 stages x 2 members"):
        Seats(2, 3, 2).rank(seat)


def test_a_stage_of_a_replica_is_a_gang() -> None:
    seats = Seats(replicas=2, stages=3, gang=2)
    gangs = [seats.of_stage(stage, replica) for replica in range(2) for stage in range(3)]
    assert [seat for gang in gangs for seat in gang] == list(seats)
    assert all(seats.gang_of(seat) == gang for gang in gangs for seat in gang)
    assert seats.of_stage(1) == seats.of_stage(1, replica=0)
