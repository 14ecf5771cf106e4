"""What there is to run on: the devices, their nodes, memory and relative speed. A value; its file.

[[devices]]
name = "node-a/0"
node = "node-a"
kind = "cpu"
memory_bytes = 8_000_000_000
threads = 2          # optional, 1
speed = 1.0          # optional, 1.0
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moe.errors import PlanError
from moe.planning import tables

CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Device:
    """One place for one rank: a GPU, or some threads of a CPU.

    ``kind`` is ``cpu`` or a GPU model. ``speed`` is relative to one CPU thread of the cost model
    (``moe.planning.costs``): that of each thread where the kind is ``cpu``, that of the whole
    device otherwise, where ``threads`` only counts the CPU threads that feed it.
    """

    name: str
    node: str
    kind: str
    memory_bytes: int
    threads: int = 1
    speed: float = 1.0

    def __post_init__(self) -> None:
        for key in ("name", "node", "kind"):
            if not getattr(self, key):
                raise PlanError(f"a device has an empty {key}; give every device a {key}")
        for key in ("memory_bytes", "threads", "speed"):
            value = getattr(self, key)
            if not 0 < value < float("inf"):
                raise PlanError(
                    f"device {self.name} has {key} = {value}; give a finite number above 0"
                )

    @property
    def threads_worth(self) -> float:
        """Speed of the whole device, in CPU threads of the cost model."""
        return self.speed * self.threads if self.kind == CPU else self.speed


@dataclass(frozen=True, slots=True)
class Inventory:
    """All devices a plan may use, in the order they are offered."""

    devices: tuple[Device, ...]

    def __post_init__(self) -> None:
        if not self.devices:
            raise PlanError("the inventory has no device; list at least one under [[devices]]")
        name, count = Counter(device.name for device in self.devices).most_common(1)[0]
        if count > 1:
            raise PlanError(
                f"the inventory names device {name} {count} times; give every device its own name"
            )

    def device(self, name: str) -> Device:
        """Return one device by its name."""
        for device in self.devices:
            if device.name == name:
                return device
        known = ", ".join(device.name for device in self.devices)
        raise PlanError(
            f"the plan uses device {name}, the inventory has {known}; "
            "make the plan again for this inventory"
        )

    def nodes(self) -> Mapping[str, tuple[Device, ...]]:
        """Return the devices of each node, both in the order of the inventory."""
        nodes: dict[str, tuple[Device, ...]] = {}
        for device in self.devices:
            nodes[device.node] = (*nodes.get(device.node, ()), device)
        return nodes


def check_one_sort(what: str, devices: Iterable[tuple[str, str]]) -> None:
    """Raise PlanError where CPUs and GPUs are mixed; ``devices`` are names with their kinds."""
    named = list(devices)
    cpus = [name for name, kind in named if kind == CPU]
    gpus = [name for name, kind in named if kind != CPU]
    if cpus and gpus:
        raise PlanError(
            f"{what} has CPU devices ({len(cpus)}, the first is {cpus[0]}) and GPUs ({len(gpus)}, "
            f"the first is {gpus[0]}), whose ranks cannot talk to each other (gloo, nccl); "
            "leave out the one kind or the other"
        )


def save_inventory(inventory: Inventory, path: Path) -> None:
    """Write the inventory as TOML."""
    table = {"devices": [asdict(device) for device in inventory.devices]}
    tables.write(table, path, "inventory")


def load_inventory(path: Path) -> Inventory:
    """Read an inventory from TOML; PlanError says what is wrong with it."""
    return tables.read(path, "inventory", _inventory, "write one [[devices]] table per device")


def _inventory(table: Mapping[str, Any]) -> Inventory:
    tables.check_keys("inventory", table, (), ("devices",))
    listed = tables.entries("inventory", "devices", table.get("devices", []))
    return Inventory(tuple(_device(number, entry) for number, entry in enumerate(listed)))


def _device(number: int, entry: Mapping[str, Any]) -> Device:
    label = f"device {entry.get('name', f'number {number}')}"
    tables.check_keys(label, entry, ("name", "node", "kind", "memory_bytes"), ("threads", "speed"))
    return Device(
        name=tables.text(label, "name", entry["name"]),
        node=tables.text(label, "node", entry["node"]),
        kind=tables.text(label, "kind", entry["kind"]),
        memory_bytes=tables.whole(label, "memory_bytes", entry["memory_bytes"]),
        threads=tables.whole(label, "threads", entry.get("threads", 1)),
        speed=tables.number(label, "speed", entry.get("speed", 1.0)),
    )
