"""The search against every way there is: it finds a placement where one is, and the best."""

from collections import Counter
from itertools import product
from operator import gt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.crew.nodes.problem import Cost, Item, Problem, fits
from actors.crew.nodes.search import search
from tests.examples import examples


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    nodes = draw(st.integers(1, 4))
    replicas = draw(st.integers(1, 3))
    stages = draw(st.integers(1, max(1, 5 // replicas)))
    resources = draw(st.integers(1, 2))
    amounts = st.tuples(*[st.integers(0, 6)] * resources)
    room = tuple(draw(amounts) for _ in range(nodes))
    needs = [draw(st.tuples(st.integers(1, 4), *[st.integers(0, 4)] * (resources - 1)))]
    needs += [draw(st.sampled_from([needs[0], (2,) * resources])) for _ in range(stages - 1)]
    some = st.sets(st.integers(0, nodes - 1))
    items = []
    for replica in range(replicas):
        for stage in range(stages):
            allowed = draw(st.one_of(st.just(set(range(nodes))), some))
            own = tuple(n for n in sorted(allowed) if fits(needs[stage], room[n]))
            wanted = draw(st.one_of(st.just(set[int]()), some))
            items.append(Item(replica, stage, needs[stage], own, frozenset(wanted)))
    return Problem(tuple(items), room)


def cost(problem: Problem, nodes: tuple[int, ...]) -> Cost:
    """Say again, from the whole, what the search adds up."""
    at = {item.gang: node for item, node in zip(problem.items, nodes, strict=True)}
    moved = sum(bool(i.wanted) and at[i.gang] not in i.wanted for i in problem.items)
    on = Counter(node for _, node in {(i.replica, at[i.gang]) for i in problem.items})
    shared = sum(count * (count - 1) // 2 for count in on.values())
    apart = sum(at[r, s] != at[r, s + 1] for r, s in at if (r, s + 1) in at)
    return moved, shared, apart


def holds(problem: Problem, nodes: tuple[int, ...]) -> bool:
    for node, amount in enumerate(problem.room):
        there = [item.need for item, own in zip(problem.items, nodes, strict=True) if own == node]
        if there and any(map(gt, map(sum, zip(*there, strict=True)), amount)):
            return False
    return all(n in item.nodes for item, n in zip(problem.items, nodes, strict=True))


def every_way(problem: Problem) -> list[tuple[Cost, tuple[int, ...]]]:
    ways = product(range(len(problem.room)), repeat=len(problem.items))
    return [(cost(problem, way), way) for way in ways if holds(problem, way)]


@settings(max_examples=examples(400))
@given(problems())
def test_the_best_placement_is_found_wherever_there_is_one(problem: Problem) -> None:
    ways = every_way(problem)
    found = search(problem)
    assert found.proved
    if not ways:
        assert found.nodes is None
        assert len(found.filled) < len(problem.items)
        return
    assert found.nodes is not None
    assert holds(problem, found.nodes)
    assert found.cost == cost(problem, found.nodes) == min(ways)[0]
    assert found.cost >= problem.least


def like(gangs: int, nodes: int, need: int, has: int, stages: int = 1) -> Problem:
    """Return so many gangs, stage after stage of a replica, on nodes that are alike."""
    items = (
        Item(*divmod(number, stages), (need,), tuple(range(nodes)), frozenset())
        for number in range(gangs)
    )
    return Problem(tuple(items), ((has,),) * nodes)


def test_what_sums_allow_but_no_node_holds_is_disproved_at_once() -> None:
    found = search(like(gangs=40, nodes=30, need=3, has=5), most_work=50_000)
    assert (found.nodes, found.proved) == (None, True)


def test_packing_that_needs_going_back_is_found_and_its_lack_is_proved() -> None:
    """Twelve gangs of 3 and twelve of 5 fill nodes of 8 only in pairs of unlike ones."""
    sizes = [(3,)] * 12 + [(5,)] * 12
    room = ((8,),) * 12

    def packing(rooms: tuple[tuple[int, ...], ...]) -> Problem:
        nodes = tuple(range(len(rooms)))
        return Problem(
            tuple(Item(n, 0, need, nodes, frozenset()) for n, need in enumerate(sizes)), rooms
        )

    assert search(packing(room)).nodes is not None
    worse = (*room[:-2], (7,), (9,))
    found = search(packing(worse))
    assert (found.nodes, found.proved) == (None, True)


@pytest.mark.parametrize(("replicas", "stages", "nodes"), [(8, 24, 192), (16, 12, 192)])
def test_a_large_cluster_is_placed_with_no_node_shared(
    replicas: int, stages: int, nodes: int
) -> None:
    found = search(like(replicas * stages, nodes, need=8, has=8, stages=stages))
    assert found.nodes is not None
    assert len(set(found.nodes)) == replicas * stages
    assert found.cost == (0, 0, replicas * (stages - 1))
    assert found.proved


def test_replicas_keep_apart_and_stages_together() -> None:
    found = search(like(gangs=4, nodes=4, need=2, has=4, stages=2))
    assert found.nodes is not None
    assert found.cost == (0, 0, 0)
    assert found.nodes[0] == found.nodes[1] != found.nodes[2] == found.nodes[3]


def test_a_search_that_may_not_work_long_says_that_nothing_is_proved() -> None:
    found = search(like(gangs=60, nodes=40, need=3, has=8), most_work=2_000)
    assert not found.proved
