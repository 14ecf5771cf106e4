"""Inventories: the file and back, and every fault by its own message."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import PlanError
from moe.planning.inventory import Device, Inventory, load_inventory, save_inventory
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
inventories = st.lists(devices, min_size=1, max_size=5, unique_by=lambda each: each.name).map(
    lambda listed: Inventory(tuple(listed))
)


def load(tmp_path: Path, text: str) -> Inventory:
    path = tmp_path / "inventory.toml"
    path.write_text(text, encoding="utf-8")
    return load_inventory(path)


@given(made=inventories)
def test_file_returns_the_same_value(
    made: Inventory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("inventory") / "inventory.toml"
    save_inventory(made, path)
    assert load_inventory(path) == made


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
    assert device(threads=4, speed=0.5).threads_worth == 2.0
    assert device(threads=4, speed=300.0, kind="A800").threads_worth == 300.0
