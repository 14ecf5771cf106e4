"""Where gangs go: together, apart, at home; what is asked of a node; what is refused, in words."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.crew.nodes.bundles import gangs
from actors.crew.nodes.choice import choose
from actors.crew.nodes.room import Room
from moe.errors import ClusterBusy, LaunchError
from tests.examples import examples
from tests.places import GB, plan, room, taken

ONE = {"threads": 1}
TWO_BY_TWO = [[ONE, ONE], [ONE, ONE]]


def names(rooms: list[Room], nodes: tuple[tuple[str, ...], ...]) -> list[list[str]]:
    by_id = {each.id: each.name for each in rooms}
    return [[by_id[node] for node in row] for row in nodes]


def test_a_gang_is_on_one_node_and_replicas_on_different_ones() -> None:
    rooms = [room("a", CPU=5), room("b", CPU=3), room("c", CPU=4), room("d", CPU=1)]
    made = plan(TWO_BY_TWO, devices=("test", "test"))
    chosen = choose(made, rooms)
    assert sorted(names(rooms, chosen.nodes)) == [["a", "a"], ["c", "c"]]
    assert (chosen.moved, chosen.shared, chosen.apart, chosen.proved) == (0, 0, 0, True)
    assert [gang.numbers for gang in gangs(made)] == [(0, 1), (2, 3), (4, 5), (6, 7)]


def test_replicas_of_other_plans_are_stayed_away_from() -> None:
    rooms = [room("a", CPU=9), room("b", CPU=5), room("c", CPU=5)]
    one = plan(TWO_BY_TWO)
    homes = []
    for _ in range(4):
        chosen = choose(one, rooms, homes)
        assert chosen.shared == (len(homes) == 3)
        assert len({*chosen.nodes[0]}) == 1
        homes.append({*chosen.nodes[0]})
        rooms = [taken(each, CPU=4) if each.id in homes[-1] else each for each in rooms]
    assert sorted(names(rooms, tuple(tuple(each) for each in homes))) == [
        ["a"],
        ["a"],
        ["b"],
        ["c"],
    ]
    here = choose(plan([[ONE]], devices=["a/cpu0"]).anywhere(), rooms, [{rooms[0].id}])
    assert names(rooms, here.nodes) != [["a"]]


@pytest.mark.parametrize("named", ["{}/cpu{{stage}}", "{}-{}/cpu{{stage}}"])
def test_a_gang_stays_on_the_node_that_the_plan_names(named: str) -> None:
    rooms = [room("a", CPU=4), room("b", CPU=6), room("c", CPU=4)]
    devices = [named.format("c", "c0000000"), named.format("a", "a0000000")]
    chosen = choose(plan(TWO_BY_TWO, devices), rooms)
    assert names(rooms, chosen.nodes) == [["c", "c"], ["a", "a"]]
    full = [taken(rooms[0], CPU=1), rooms[1], taken(rooms[2], CPU=3)]
    chosen = choose(plan(TWO_BY_TWO, devices), full)
    first, second = names(full, chosen.nodes)
    assert (first, sorted(second)) == (["b", "b"], ["a", "b"])
    assert chosen.moved == 3


def test_gangs_named_after_several_nodes_go_to_the_one_of_most_ranks() -> None:
    made = plan([[ONE, ONE, ONE]], devices=["a/cpu{member}"])
    moved = replace(made.stages[0].ranks[0], devices=("b/cpu0",))
    stage = replace(made.stages[0], ranks=(moved, *made.stages[0].ranks[1:]))
    (gang,) = gangs(replace(made, stages=(stage,)))
    assert gang.nodes == ("a",)
    assert gangs(plan([[ONE]], devices=["test"]))[0].nodes == ()


def test_kinds_resources_memory_and_labels_decide_the_node() -> None:
    rooms = [
        room("a", CPU=8, GPU=2, memory=4 * GB, **{"accelerator_type:A100": 1}),
        room("b", {"rack": "r0"}, CPU=8, GPU=2, **{"accelerator_type:T4": 1}),
        room("c", {"rack": "r1"}, CPU=8, memory=16 * GB, slot=1.5),
    ]
    asked = {
        "a": {"kind": "A100"},
        "b": {"kind": "T4", "labels": (("rack", "!r1"),)},
        "c": {"memory_bytes": 5 * GB},
    }
    for node, rank in asked.items():
        assert names(rooms, choose(plan([[rank]]), rooms).nodes) == [[node]]
    slots = [{"resources": (("slot", 0.7),)}, {"resources": (("slot", 0.8),)}]
    assert names(rooms, choose(plan([slots]), rooms).nodes) == [["c"]]
    labels = [{"labels": (("rack", "in(r0, r2)"),)}, {"labels": (("zone", "!z"),)}]
    assert names(rooms, choose(plan([labels]), rooms).nodes) == [["b"]]


@settings(max_examples=examples(60))
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 3))
def test_no_node_is_asked_for_more_than_it_has(sizes: list[int], stages: int, copies: int) -> None:
    rooms = [room("abcd"[number], CPU=size) for number, size in enumerate(sizes)]
    made = plan([[ONE, {"threads": 2}]] * stages, devices=["test"] * copies)
    try:
        chosen = choose(made, rooms)
    except LaunchError:
        assert sum(size // 3 for size in sizes) < stages * copies
        return
    for each in rooms:
        there = [node for row in chosen.nodes for node in row if node == each.id]
        assert 3 * len(there) <= each.total["CPU"]


IDLE = [
    room("a", {"rack": "r0", "role": "x"}, CPU=4, memory=8 * GB),
    room("b", {"rack": "r1"}, CPU=3, memory=2 * GB, slot=2),
]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            [[ONE], [{"labels": (("rack", "r9"),)}]],
            r"rank 1 \(replica 0, stage 1\) asks for a node with rack = r9, but of 2 nodes none is "
            r"so: rack is r0, r1; start a node with such labels, or change",
        ),
        ([[{"labels": (("zone", "in(a, b)"),)}]], "none is so: no node has a label zone"),
        (
            [[{"labels": (("rack", "r1"), ("role", "x"))}]],
            "with rack = r1, role = x, but of 2 nodes none is so: rack is r0, r1; role is x",
        ),
        (
            [[ONE, {"threads": 9}]],
            r"rank 1 \(replica 0, stage 0\) asks for 9 CPU on one node, but the node nearest to "
            r"it, a, has 4 CPU; make the plan for this cluster with `raymoe plan --ray`, or add",
        ),
        (
            [[{"threads": 4, "labels": (("rack", "r1"),)}]],
            r"asks for 4 CPU on one node with rack = r1, but .* b, has 3 CPU",
        ),
        (
            [[{"memory_bytes": 9 * GB}]],
            r"asks for 1 CPU, 9 GB memory on one node, but .* a, has 8 GB memory",
        ),
        ([[{"resources": (("slot", 1.5),)}, {"resources": (("slot", 1.0),)}]], "b, has 2 slot"),
        ([[{"kind": "T4"}]], r"for 1 CPU, 1 GPU of kind T4 .* has 0 GPU, no GPU of kind T4"),
        (
            [[{"threads": 2}, {"threads": 3}]],
            r"rank 1 \(replica 0, stage 0\) asks for 3 CPU on the node of its gang, which asks for "
            r"5 CPU together, but the node nearest to it, a, has 4 CPU; lower plan.gang",
        ),
        (
            [[{"labels": (("rack", "r0"),)}, {"labels": (("rack", "r1"),)}]],
            r"the gang of replica 0, stage 0 \(ranks 0 to 1\) is to be on one node, but no node "
            r"has all that its ranks select: rack = r0, rack = r1; lower plan.gang",
        ),
        (
            [[{"threads": 2}]] * 4,
            r"the plan needs 8 CPU for its 4 ranks but the cluster has 7 CPU, so the gang of "
            r"replica 0, stage 3 \(rank 3\) finds no place; use fewer stages",
        ),
        (
            [[{"memory_bytes": 3 * GB}]] * 3,
            r"the gang of replica 0, stage 2 \(rank 2\) asks for 1 CPU, 3 GB memory on one node, "
            r"but beside the other gangs the node nearest to it, a, has 2 GB memory left, however "
            r"they are placed; make the plan for this cluster",
        ),
    ],
)
def test_what_even_the_idle_cluster_cannot_hold_is_said(
    stages: list[list[dict[str, object]]], message: str
) -> None:
    with pytest.raises(LaunchError, match=message) as caught:
        choose(plan(stages), IDLE)
    assert not isinstance(caught.value, ClusterBusy)
    with pytest.raises(LaunchError, match=message) as caught:
        choose(plan(stages), [taken(each, CPU=3) for each in IDLE])
    assert not isinstance(caught.value, ClusterBusy)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([[{"threads": 4}]], r"rank 0 .* asks for 4 CPU .* a, has 1 CPU free of 4 CPU; the clu"),
        ([[ONE], [{"threads": 2}]], r"rank 1 \(replica 0, stage 1\) .* has 1 CPU free of [34] CPU"),
        ([[ONE, ONE]], r"rank 1 .* on the node of its gang, .* 2 CPU together, .* 1 CPU free of"),
        ([[ONE]] * 3, r"needs 3 CPU for its 3 ranks but the cluster has 2 CPU free, so .*stage 2"),
        ([[{"memory_bytes": 7 * GB}]], r"a, has 4.5 GB memory free of 8 GB memory"),
    ],
)
def test_what_is_only_not_free_now_is_told_apart(
    stages: list[list[dict[str, object]]], message: str
) -> None:
    choose(plan(stages), IDLE)
    now = [taken(IDLE[0], CPU=3, memory=3.5 * GB), taken(IDLE[1], CPU=2)]
    with pytest.raises(ClusterBusy, match=message) as caught:
        choose(plan(stages), now)
    assert "would hold the plan if it were idle: wait until" in str(caught.value)


def test_a_cluster_without_nodes_is_said_to_be_so() -> None:
    with pytest.raises(LaunchError, match="no living node; start one"):
        choose(plan([[ONE]]), [])
