"""Inventories: the file and back, and every fault by its own message."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import PlanError
from moe.planning.devices.inventory import Device, Inventory, check_one_backend
from moe.planning.devices.inventory_file import (
    load_inventory,
    load_profile,
    save_inventory,
    save_profile,
)
from moe.planning.devices.links import LOOPBACK, NETWORK, Link
from moe.planning.devices.pace import Measured, Profile
from moe.planning.devices.rates import CPU_THREAD, GPUS, Rates
from tests.plans import device, inventory

GOOD = """
[[devices]]
name = "a/0"
node = "a"
kind = "cpu"
memory_bytes = 8_000_000_000
"""

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
devices = st.builds(
    Device,
    name=names,
    node=names,
    kind=st.sampled_from(["cpu", "A800"]),
    memory_bytes=st.integers(1, 2**50),
    threads=st.integers(1, 64),
    speed=st.floats(1e-3, 1e4),
)
positive = st.floats(1e-3, 1e15)
profiles = st.builds(
    Profile,
    kind=st.sampled_from(["cpu", "A800"]),
    threads=st.integers(1, 64),
    rates=st.builds(Rates, positive, positive),
    parts=st.lists(
        st.builds(
            Measured,
            st.sampled_from(["dense", "moe", "head"]),
            st.integers(1, 9999),
            *[st.floats(0, 100)] * 4,
        ),
        max_size=3,
    ).map(tuple),
    source=names,
)


@st.composite
def links(draw: st.DrawFn, nodes: list[str]) -> Link:
    one = draw(st.sampled_from([*nodes, "*"]))
    other = "*" if one == "*" else draw(st.sampled_from([*nodes, "*"]))
    named = (one,) if draw(st.booleans()) else (one, other)
    return Link(named, draw(st.floats(0, 1e12)), draw(st.floats(0, 1)))


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    listed = draw(st.lists(devices, min_size=1, max_size=5, unique_by=lambda each: each.name))
    nodes = [each.node for each in listed]
    return Inventory(
        tuple(listed),
        tuple(draw(st.lists(links(nodes), max_size=3))),
        tuple(draw(st.lists(profiles, max_size=2))),
    )


def load(tmp_path: Path, text: str) -> Inventory:
    path = tmp_path / "inventory.toml"
    path.write_text(text, encoding="utf-8")
    return load_inventory(path)


@given(made=inventories())
def test_file_returns_the_same_value(
    made: Inventory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("inventory") / "inventory.toml"
    save_inventory(made, path)
    assert load_inventory(path) == made


@given(found=st.lists(profiles, max_size=3), known=st.lists(links([]), max_size=3))
def test_a_profile_file_returns_the_same_values(
    found: list[Profile], known: list[Link], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("profile") / "profile.toml"
    save_profile(found, known, path)
    assert load_profile(path) == (tuple(found), tuple(known))


def test_threads_and_speed_may_be_left_out(tmp_path: Path) -> None:
    (only,) = load(tmp_path, GOOD).devices
    assert (only.threads, only.speed) == (1, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the inventory has no device"),
        ("devices = []", "the inventory has no device"),
        ("devices = 3", "not a list of tables"),
        ("[[device]]", "unknown key device; did you mean devices?"),
        (GOOD + "memory = 3", "device a/0: unknown key memory; did you mean memory_bytes?"),
        (GOOD + "zzz = 3", "unknown key zzz; known keys: name, node"),
        (GOOD + GOOD, "names device a/0 2 times"),
        (GOOD.replace("8_000_000_000", "8.5"), "memory_bytes is 8.5; expected a whole number"),
        (GOOD.replace("8_000_000_000", "true"), "memory_bytes is True; expected a whole number"),
        (GOOD.replace("8_000_000_000", "0"), "device a/0 has memory_bytes = 0"),
        (GOOD.replace('kind = "cpu"', ""), "device a/0: kind is missing"),
        (GOOD.replace('name = "a/0"', "name = 1"), "name is 1; expected text in quotes"),
        (GOOD.replace('name = "a/0"', 'name = ""'), "a device has an empty name"),
        (GOOD + "speed = inf", "speed = inf; give a finite number"),
        (GOOD + "speed = nan", "speed = nan; give a finite number"),
        (GOOD + 'speed = "fast"', "speed is 'fast'; expected a number"),
        ("[[devices", "is not TOML"),
        (GOOD + "[[links]]\nbytes_per_second = 1", "link of no nodes: nodes is missing"),
        (GOOD + '[[links]]\nnodes = "a"\nbytes_per_second = 1', "nodes is 'a'; expected a list"),
        (GOOD + '[[links]]\nnodes = ["a"]\nbytes_per_second = -1', "has bytes_per_second = -1"),
        (GOOD + '[[links]]\nnodes = ["*", "a"]\nbytes_per_second = 1', "after a name"),
        (GOOD + "[[profiles]]\nthreads = 1", "profile of a device: kind is missing"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PlanError, match=r"inventory\.toml") as caught:
        load(tmp_path, text)
    assert message in str(caught.value)


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no inventory at .*nowhere"):
        load_inventory(tmp_path / "nowhere")
    with pytest.raises(PlanError, match="cannot read the inventory"):
        load_inventory(tmp_path)
    with pytest.raises(PlanError, match="cannot write the inventory"):
        save_inventory(inventory(1), tmp_path)


def test_an_unknown_device_is_named_with_those_there() -> None:
    with pytest.raises(PlanError, match="uses device b/0, the inventory has a/0, a/1"):
        inventory(2).device("b/0")


def test_nodes_keep_the_order_of_the_inventory() -> None:
    first, other, second = device("a/0"), device("b/0", "b"), device("a/1")
    nodes = Inventory((first, other, second)).nodes()
    assert list(nodes.items()) == [("a", (first, second)), ("b", (other,))]


def test_threads_count_for_a_cpu_only() -> None:
    there = inventory(1)
    thread = there.pace(device()).rates.flops_per_second
    assert there.pace(device(threads=4, speed=0.5)).rates.flops_per_second == 2 * thread


@pytest.mark.parametrize(
    ("kind", "advice"),
    [("A100-80GB", "did you mean A100-80G?"), ("Z9000", "known: T4, .*MI300X")],
)
def test_a_kind_of_whose_speed_nothing_is_known_needs_a_profile(kind: str, advice: str) -> None:
    there = Inventory((device("a/0"), device("a/1", kind=kind)))
    with pytest.raises(PlanError, match=f"a/1 is of kind '{kind}'.*{advice}.*--profile"):
        there.check_kinds()
    with pytest.raises(PlanError, match=kind):
        there.pace(there.devices[1])
    measured = there.measured([Profile(kind, 1, Rates(1e12, 1e11))])
    measured.check_kinds()
    assert measured.pace(there.devices[1]).rates == Rates(1e12, 1e11)


def test_gpus_of_two_vendors_are_not_in_one_plan() -> None:
    check_one_backend("the plan", [("a", "A100"), ("b", "H100")])
    check_one_backend("the plan", [("a", "MI300X"), ("b", "AMD-Instinct-MI355X")])
    with pytest.raises(PlanError, match=r"GPUs \(1, .* a\) and AMD GPUs \(2, .* b\).*rccl"):
        check_one_backend("the plan", [("a", "A100"), ("b", "MI300X"), ("c", "MI300X")])


def test_what_is_known_of_a_device_comes_from_profile_data_sheet_or_thread() -> None:
    measured = Profile("cpu", 2, Rates(5.0, 7.0), source="a run")
    there = Inventory(inventory(1).devices, profiles=(measured,))
    assert there.pace(device(threads=2, speed=3.0)).rates == Rates(15.0, 21.0)
    assert there.pace(device(threads=2)).source == "a run"
    assert there.pace(device(threads=1)).rates == CPU_THREAD
    assert there.pace(device(threads=1)).source == "counted"
    gpu = device(kind="A800", threads=16)
    assert there.pace(gpu).source == "data sheet of A800"
    assert there.pace(gpu, sixteen_bit=True).rates.flops_per_second == pytest.approx(
        312 / 19.5 * there.pace(gpu).rates.flops_per_second
    )
    whole = there.measured([Profile("A800", 1, Rates(1.0, 2.0))])
    assert whole.pace(gpu).rates == Rates(1.0, 2.0)


def test_a_profile_of_one_precision_never_answers_for_the_other() -> None:
    float32, bf16 = Rates(1e12, 1e11), Rates(1.5e13, 1e11)
    strange = Inventory((device(kind="Z9000"),))
    half = strange.measured([Profile("Z9000", 1, bf16, precision="bf16")])
    assert half.pace(half.devices[0], sixteen_bit=True).rates == bf16
    assert half.strength(half.devices[0]) == bf16.flops_per_second
    half.check_kinds()
    with pytest.raises(PlanError, match=r"'Z9000', which was measured in bf16 alone"):
        half.pace(half.devices[0])
    both = half.measured([Profile("Z9000", 1, float32)])
    assert both.pace(both.devices[0]).rates == float32
    assert both.pace(both.devices[0], sixteen_bit=True).rates == bf16
    known = Inventory((device(kind="H100"),), profiles=(Profile("H100", 1, float32),))
    assert known.pace(known.devices[0], sixteen_bit=True).source == "data sheet of H100"


def test_what_stands_for_a_profile_is_told_of_each_kind_of_device() -> None:
    devices = (device("a/0"), device("a/1"), device("a/2", threads=2), device("b/0", "b"))
    there = Inventory(devices, profiles=(Profile("cpu", 2, Rates(1.0, 1.0)),))
    (caution,) = there.cautions(sixteen_bit=False)
    assert caution.startswith("no profile of cpu of 1 thread in float32: its seconds are counted")
    assert len(there.cautions(sixteen_bit=True)) == 2
    (sheet,) = Inventory((device(kind="L4"),)).cautions(sixteen_bit=True)
    assert sheet.startswith("no profile of L4 in bf16: its seconds are those of its data sheet")


def test_links_by_name_come_before_any_and_the_network_before_nothing() -> None:
    one, other, third = device("a/0"), device("b/0", "b"), device("c/0", "c")
    beside = device("a/1")
    links = (
        Link(("*", "*"), 1.0),
        Link(("a", "*"), 2.0),
        Link(("b", "a"), 3.0),
        Link(("a",), 4.0),
    )
    there = Inventory((one, beside, other, third), links)
    assert there.link(one, other).bytes_per_second == 3.0
    assert there.link(other, one).bytes_per_second == 3.0
    assert there.link(third, one).bytes_per_second == 2.0
    assert there.link(other, third).bytes_per_second == 1.0
    assert there.link(one, beside).bytes_per_second == 4.0
    bare = Inventory(there.devices)
    assert bare.link(one, other) == NETWORK
    assert bare.link(one, beside) == LOOPBACK


def test_gpus_of_a_node_are_linked_as_the_data_sheet_of_the_slower_says() -> None:
    fast, slow = device("a/0", kind="H100"), device("a/1", kind="A800")
    there = Inventory((fast, slow))
    assert there.link(fast, slow).bytes_per_second == GPUS["A800"].link_bytes_per_second


def test_a_link_of_a_node_without_devices_is_refused() -> None:
    with pytest.raises(PlanError, match="a link names node z, which no device is on"):
        Inventory(inventory(1).devices, (Link(("a", "z"), 1.0),))
