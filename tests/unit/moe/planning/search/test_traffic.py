"""Traffic: no pipeline sends less, wherever its gangs are."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.links import NETWORK, Link
from moe.planning.search.traffic import Runs, Traffic, quickest_links, runs_of


def device(name: str, node: str, kind: str = "cpu") -> Device:
    return Device(name, node, kind, memory_bytes=2**30, threads=1)


def rows(runs: Runs) -> Traffic:
    return Traffic(1.0, 60.0, runs, 2, Link(("*",), 1.0), 1, 0.0)


@st.composite
def pipelines(draw: st.DrawFn) -> list[tuple[Device, ...]]:
    """Draw gangs of one size, in any order, on nodes with any number of devices."""
    nodes = [node for node in "abcd" for _ in range(draw(st.integers(0, 5)))]
    devices = [device(f"d{number}", node) for number, node in enumerate(nodes)]
    shuffled = draw(st.permutations(devices)) if draw(st.booleans()) else devices
    size = draw(st.integers(1, 4))
    made = [tuple(shuffled[at : at + size]) for at in range(0, len(shuffled) - size + 1, size)]
    return draw(st.permutations(made))


@given(pipelines())
def test_no_row_of_gangs_has_fewer_far_hops(gangs: list[tuple[Device, ...]]) -> None:
    sent = rows(runs_of(gangs))
    far = [
        any(here.node != there.node for here, there in zip(*pair, strict=True))
        for pair in pairwise(gangs)
    ]
    hops = [60.0 if each else 1.0 for each in far]
    for start in range(len(gangs)):
        for stop in range(start + 1, len(gangs) + 1):
            assert sent.hops(stop - start) <= sum(hops[start : stop - 1])
    for stage in range(len(gangs)):
        waits = sum(hops[max(0, stage - 1) : stage + 1])
        assert sent.wait(stage, len(gangs)) <= waits


def test_two_gangs_on_a_node_are_far_from_every_second_one() -> None:
    gangs = [
        tuple(device(f"{node}{half}{each}", node) for each in range(4))
        for node in "abc"
        for half in range(2)
    ]
    sent = rows(runs_of(gangs))
    assert sent.hops(6) == 2 * 60 + 3 * 1
    assert sent.wait(2, 6) == 60 + 1
    assert rows(runs_of(gangs).shared(2)).hops(6) == sent.hops(6)


def test_links_as_quick_as_any_know_named_nodes_and_kinds() -> None:
    mixed = (device("a0", "a"), device("a1", "a", "A800"), device("a2", "a", "A800"))
    links = quickest_links(Inventory((*mixed, device("b0", "b"), device("c0", "c"))))
    assert links.within.bytes_per_second > 1e10
    assert links.between.bytes_per_second == NETWORK.bytes_per_second
    named = Inventory(
        (device("a0", "a"), device("b0", "b"), device("c0", "c")), (Link(("c", "*"), 9e9),)
    )
    assert quickest_links(named).between.bytes_per_second == 9e9


def test_gradients_are_summed_between_nodes_where_no_stage_can_do_without() -> None:
    """Gangs of 2 over nodes a and b: two of them sum each member's gradients within a node."""
    devices = {node: [device(f"{node}{each}", node) for each in range(2)] for node in "ab"}
    there = Inventory((*devices["a"], *devices["b"]), (Link(("*",), 9e9), Link(("*", "*"), 1e9)))
    links = quickest_links(there)
    over = runs_of(list(zip(*devices.values(), strict=True)))
    inside = runs_of([tuple(node) for node in devices.values()])
    assert links.of_sums(2, 2, over).bytes_per_second == 9e9
    assert links.of_sums(2, 2, inside).bytes_per_second == 1e9
    assert links.of_sums(2, 3, over).bytes_per_second == 1e9
