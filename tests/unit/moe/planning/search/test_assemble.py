"""Which units the search may exchange, on the example of three like devices and another."""

from moe.planning.devices.inventory import Inventory
from moe.planning.devices.links import Link
from moe.planning.search.assemble import kinds_of
from moe.planning.stages.units import Unit
from tests.plans import device

DEVICES = tuple(
    device(node.upper(), node, kind="T4" if node == "d" else "A100-80G") for node in "abcd"
)
UNITS = [Unit(((each,),)) for each in DEVICES]


def kinds(*links: Link, devices: int = 4) -> tuple[list[str], bool]:
    """Return the names of the devices of each kind, and whether they are taken node by node."""
    found, node_by_node = kinds_of(Inventory(DEVICES, links), UNITS[:devices])
    named = ["".join(unit.gangs[0][0].name for unit in kind) for kind in found]
    return named, node_by_node


def test_like_units_are_of_one_kind_where_all_links_are_alike() -> None:
    assert kinds() == (["ABC", "D"], False)


def test_a_nearer_pair_of_nodes_makes_a_kind_of_each() -> None:
    near = Link(("a", "b"), 1e11, 1e-6)
    assert kinds(near) == (["A", "B", "C", "D"], False)
    assert kinds(near, devices=2) == (["AB"], False)


def test_with_too_many_kinds_units_are_taken_node_by_node() -> None:
    many = tuple(device(f"n{number}", f"n{number}") for number in range(8))
    units = [Unit(((each,),)) for each in many]
    near = Link(("n0", "n1"), 1e11, 1e-6)
    (kind,), node_by_node = kinds_of(Inventory(many, (near,)), units)
    assert [unit.gangs[0][0] for unit in kind] == list(many)
    assert node_by_node
