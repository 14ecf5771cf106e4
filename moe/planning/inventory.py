"""What there is to run on: the devices, their nodes, memory and relative speed. A value; its file.

[[devices]]
name = "node-a/0"
node = "node-a"
kind = "cpu"
memory_bytes = 8_000_000_000
threads = 2          # optional, 1
speed = 1.0          # optional, 1.0
"""

import difflib
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import tomli_w

from moe.errors import PlanError

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


def save_inventory(inventory: Inventory, path: Path) -> None:
    """Write the inventory as TOML."""
    table = {"devices": [asdict(device) for device in inventory.devices]}
    try:
        path.write_text(tomli_w.dumps(table), encoding="utf-8")
    except OSError as error:
        raise PlanError(f"cannot write the inventory to {path}: {error.strerror}") from error


def load_inventory(path: Path) -> Inventory:
    """Read an inventory from TOML; PlanError says what is wrong with it."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return _inventory(table)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} is not TOML: {error}") from error
    except FileNotFoundError:
        raise PlanError(f"no inventory at {path}; write one [[devices]] table per device") from None
    except OSError as error:
        raise PlanError(f"cannot read {path}: {error.strerror}") from error
    except PlanError as error:
        raise PlanError(f"{path} is not an inventory: {error}") from None


def _inventory(table: Mapping[str, Any]) -> Inventory:
    _refuse_unknown("inventory", table, ["devices"])
    entries = table.get("devices", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise PlanError("devices is not a list of tables; write each device under [[devices]]")
    return Inventory(tuple(_device(number, entry) for number, entry in enumerate(entries)))


def _device(number: int, entry: Mapping[str, Any]) -> Device:
    label = f"device {entry.get('name', number)}"
    _refuse_unknown(label, entry, [field.name for field in fields(Device)])
    values: dict[str, Any] = {}
    for field in fields(Device):
        if field.name in entry:
            values[field.name] = _typed(label, field.name, entry[field.name], field.type)
        elif field.default is MISSING:
            raise PlanError(f"{label} has no {field.name}; every device needs one")
    return Device(**values)


def _typed(label: str, key: str, value: Any, kind: Any) -> Any:
    accepted = (int, float) if kind is float else (kind,)
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise PlanError(f"{label}: {key} is {value!r}; expected {_KIND_NAMES[kind]}")
    return kind(value)


def _refuse_unknown(label: str, table: Mapping[str, Any], known: list[str]) -> None:
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
            raise PlanError(f"{label}: unknown key {key}; {hint}")


_KIND_NAMES = {str: "text in quotes", int: "a whole number", float: "a number"}
