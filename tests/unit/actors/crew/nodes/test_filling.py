"""Where ranks go while others stay: beside their gang, or wherever there is room."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.crew.nodes.bundles import bundle, takes
from actors.crew.nodes.choice import choose
from actors.crew.nodes.filling import fill
from actors.crew.nodes.room import Room
from moe.errors import ClusterBusy, LaunchError
from moe.planning.plan.seats import Seat
from tests.examples import examples
from tests.places import plan, room, taken

ONE = {"threads": 1}
TWO = plan([[ONE, ONE], [ONE, ONE]], devices=("test", "test"))
"""Two replicas of two gangs of two."""


def standing(*nodes: str) -> dict[Seat, str]:
    """Return the ids of nodes, given by name for each gang; a gang without one is lost."""
    gangs = [(replica, stage) for replica in range(2) for stage in range(2)]
    return {
        Seat(*gang, member): node.ljust(16, "0")
        for gang, node in zip(gangs, nodes, strict=True)
        if node
        for member in range(2)
    }


def filled(staying: dict[Seat, str], rooms: list[Room]) -> dict[Seat, str]:
    seats = [seat for seat in TWO.seats if seat not in staying]
    return {seat: node.rstrip("0") for seat, node in fill(TWO, seats, staying, rooms).items()}


def test_a_lost_member_goes_to_the_node_of_its_gang() -> None:
    rooms = [room("a", CPU=8), taken(room("b", CPU=4), CPU=3), room("c", CPU=8)]
    staying = standing("a", "b", "c", "c")
    del staying[Seat(0, 1, 1)]
    assert filled(staying, rooms) == {Seat(0, 1, 1): "b"}


def test_a_lost_gang_goes_where_it_meets_no_other_replica() -> None:
    rooms = [room("a", CPU=8), room("b", CPU=8)]
    gang = {Seat(1, 1, member): "b" for member in range(2)}
    assert filled(standing("a", "a", "b", ""), rooms) == gang
    assert filled(standing("b", "b", "b", ""), rooms) == gang
    assert {*filled(standing("a", "a", "", ""), rooms).values()} == {"b"}


def test_a_node_that_leaves_takes_no_gang_but_its_own_gangs_count() -> None:
    rooms = [room("b", CPU=8), room("c", CPU=8)]
    assert {*filled(standing("a", "a", "c", ""), rooms).values()} == {"c"}
    staying = standing("a", "b", "c", "c")
    del staying[Seat(0, 0, 1)]
    with pytest.raises(ClusterBusy, match=r"rank 1\) .* of its gang, which leaves the cluster"):
        filled(staying, rooms)


def test_what_does_not_fit_is_said() -> None:
    staying = standing("a", "b", "c", "c")
    del staying[Seat(0, 1, 0)]
    full = [room("a", CPU=8), taken(room("b", CPU=4), CPU=4), room("c", CPU=8)]
    with pytest.raises(ClusterBusy, match="1 CPU on the node of its gang, but b has 0 CPU free of"):
        filled(staying, full)
    small = [room("a", CPU=8), taken(room("b", CPU=1), CPU=1), room("c", CPU=8)]
    with pytest.raises(LaunchError, match="start the whole gang anew") as raised:
        filled(staying, small)
    assert not isinstance(raised.value, ClusterBusy)
    lost = standing("a", "a", "b", "")
    with pytest.raises(ClusterBusy, match=r"rank 7 .*, b, has 1 CPU free"):
        filled(lost, [taken(room("a", CPU=4), CPU=4), taken(room("b", CPU=4), CPU=3)])
    with pytest.raises(LaunchError, match="asks for 2 CPU") as raised:
        filled(lost, [taken(room("a", CPU=4), CPU=4), taken(room("b", CPU=3), CPU=2)])
    assert not isinstance(raised.value, ClusterBusy)
    with pytest.raises(LaunchError, match="no living node"):
        filled(lost, [])


def test_a_gang_cannot_stay_on_two_nodes() -> None:
    staying = standing("a", "b", "c", "")
    staying[Seat(0, 0, 1)] = "b"
    with pytest.raises(LaunchError, match="replica 0, stage 0 would keep ranks of two nodes"):
        filled(staying, [room("a", CPU=8)])


@settings(max_examples=examples(60))
@given(st.lists(st.integers(2, 6), min_size=2, max_size=4), st.sets(st.integers(0, 7)))
def test_no_node_is_asked_for_more_than_is_free(sizes: list[int], lost: set[int]) -> None:
    rooms = [room("abcd"[number], CPU=size) for number, size in enumerate(sizes)]
    try:
        nodes = choose(TWO, rooms).nodes
    except (LaunchError, ClusterBusy):
        return
    everyone = {seat: nodes[seat.replica][seat.stage] for seat in TWO.seats}
    gone = [seat for number, seat in enumerate(TWO.seats) if number in lost]
    staying = {seat: node for seat, node in everyone.items() if seat not in gone}
    held = [taken(each, CPU=[*staying.values()].count(each.id)) for each in rooms]
    found = fill(TWO, gone, staying, held)
    assert [*found] == gone
    for each in held:
        ranks = [TWO.rank(seat) for seat, node in found.items() if node == each.id]
        assert sum(bundle(rank)["CPU"] for rank in ranks) <= each.free["CPU"]
        assert all(takes(rank, each.labels) for rank in ranks)
    both = staying | found
    assert all(both[seat] == both[TWO.seats.gang_of(seat)[0]] for seat in TWO.seats)
