"""Who holds whose copy: a permutation that leaves the node wherever the numbers allow it."""

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.planning.plan.seats import Seats
from moe.planning.policy.holders import holders


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("ab", [1, 0]),
        ("aabb", [2, 3, 0, 1]),
        ("abab", [1, 0, 3, 2]),
        ("aaab", [1, 2, 3, 0]),
        ("aaaa", [2, 3, 0, 1]),
        ("aaa", [1, 2, 0]),
        ("aabbcc", [3, 4, 5, 0, 1, 2]),
    ],
)
def test_who_holds_whose_copy(nodes: str, expected: list[int]) -> None:
    found = holders(dict(enumerate(nodes)))
    assert found is not None
    assert [found[seat] for seat in range(len(nodes))] == expected


@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=12))
def test_each_holds_one_copy_and_as_many_as_can_leave_their_node(nodes: list[str]) -> None:
    found = holders(dict(enumerate(nodes)))
    assert found is not None
    assert sorted(found.values()) == sorted(found) == list(range(len(nodes)))
    assert all(seat != holder for seat, holder in found.items())
    off = sum(nodes[seat] != nodes[holder] for seat, holder in found.items())
    most = max(Counter(nodes).values())
    assert off == min(len(nodes), 2 * (len(nodes) - most))


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=6))
def test_no_permutation_moves_more_copies_off_their_nodes(nodes: list[str]) -> None:
    found = holders(dict(enumerate(nodes)))
    assert found is not None
    count = range(len(nodes))
    best = max(
        sum(nodes[seat] != nodes[order[seat]] for seat in count)
        for order in permutations(count)
        if all(order[seat] != seat for seat in count)
    )
    assert sum(nodes[seat] != nodes[found[seat]] for seat in count) == best


def test_a_single_rank_has_no_holder_and_seats_are_taken_as_they_are() -> None:
    assert holders({0: "a"}) is None
    seats = tuple(Seats(2, 1, 1))
    assert holders(dict.fromkeys(seats, "a")) == {seats[0]: seats[1], seats[1]: seats[0]}
