"""Links: seconds of a tensor and of a sum, played message by message."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import PlanError
from moe.planning.devices.links import Link, from_table, most_particular, slowest

links = st.builds(
    Link, st.just(("*",)), st.floats(1e3, 1e12), st.floats(0, 0.1, allow_subnormal=False)
)


@given(links, st.integers(2, 9), st.integers(1, 10**9))
def test_a_ring_sums_in_twice_as_many_steps_as_there_are_other_ranks(
    link: Link, ranks: int, size: int
) -> None:
    """Play it: each rank sends one part of ``ranks`` to the next until every part is everywhere."""
    parts = [{(rank, part): {rank} for part in range(ranks)} for rank in range(ranks)]
    summed = [[{rank} for _ in range(ranks)] for rank in range(ranks)]
    assert len(parts) == ranks
    seconds, step = 0.0, 0
    while not all(len(each) == ranks for row in summed for each in row):
        sent = [summed[rank][(rank - step) % ranks] for rank in range(ranks)]
        for rank in range(ranks):
            part = (rank - step) % ranks
            summed[(rank + 1) % ranks][part] = summed[(rank + 1) % ranks][part] | sent[rank]
        seconds += link.seconds(size / ranks)
        step += 1
    assert link.all_reduce_seconds(size, ranks) == pytest.approx(seconds, rel=1e-9)


def test_alone_there_is_nothing_to_sum_and_unconnected_it_takes_for_ever() -> None:
    assert Link(("a",), 1e9, 0.5).all_reduce_seconds(1e9, 1) == 0.0
    nothing = Link(("a", "b"), 0.0)
    assert nothing.seconds(1) == inf
    assert nothing.all_reduce_seconds(1, 2) == inf
    assert nothing.all_reduce_seconds(1, 1) == 0.0
    assert Link(("a",), 1e9, 0.5).seconds(2e9) == 2.5


def test_the_slowest_of_several_is_slow_in_each_respect() -> None:
    one, other = Link(("a",), 1.0, 0.1), Link(("b",), 2.0, 0.2)
    both = slowest([one, other])
    assert (both.bytes_per_second, both.latency_seconds) == (1.0, 0.2)


def test_names_come_before_any_and_a_node_is_not_its_own_neighbour() -> None:
    between = Link(("*", "*"), 1.0)
    within = Link(("*",), 2.0)
    named = Link(("b", "a"), 3.0)
    known = (between, within, named)
    assert most_particular(known, "a", "b") is named
    assert most_particular(known, "a", "c") is between
    assert most_particular(known, "a", "a") is within
    assert most_particular((between, named), "a", "a") is None


@pytest.mark.parametrize(
    ("nodes", "message"),
    [((), "names nodes"), (("a", "b", "c"), "names nodes"), (("*", "a"), "after a name")],
)
def test_links_of_no_or_too_many_nodes_are_refused(nodes: tuple[str, ...], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Link(nodes, 1.0)


@pytest.mark.parametrize("value", [-1.0, inf, float("nan")])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    with pytest.raises(PlanError, match="give a finite number, 0 or above"):
        Link(("a",), value)
    with pytest.raises(PlanError, match="latency_seconds"):
        Link(("a",), 1.0, value)


def test_a_table_is_read_strictly() -> None:
    assert from_table({"nodes": ["a", "b"], "bytes_per_second": 5}) == Link(("a", "b"), 5.0)
    with pytest.raises(PlanError, match="unknown key speed"):
        from_table({"nodes": ["a"], "bytes_per_second": 5, "speed": 3})
