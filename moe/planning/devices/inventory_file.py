"""The inventory as a TOML file, and the profile that ``raymoe profile`` leaves beside it.

[[devices]]
name = "node-a/0"
node = "node-a"
kind = "cpu"
memory_bytes = 8_000_000_000
threads = 2          # optional, 1
speed = 1.0          # optional, 1.0
resources = { expert_slot = 1 }      # optional; what a rank on it takes of its node, by name
labels = { rack = "in(r0, r1)" }     # optional; selectors of the node, moe.planning.devices.labels
accelerator = "A100"                 # optional; of a GPU: Ray's word for it, where it is another
host_bytes = 64_000_000_000          # optional; of a GPU: its part of the memory of its node

``[[links]]`` are described in ``moe.planning.devices.links``, ``[[profiles]]`` in
``moe.planning.devices.pace``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moe.planning import tables
from moe.planning.devices import links, pace
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.links import Link
from moe.planning.devices.pace import Profile

_UNSAID = ("resources", "labels", "accelerator", "host_bytes")
"""Keys of a device that are left out where there is nothing to say."""

Measurements = tuple[tuple[Profile, ...], tuple[Link, ...]]
"""What a profile file holds."""


def save_inventory(inventory: Inventory, path: Path) -> None:
    """Write the inventory as TOML."""
    table = {"devices": [_device_table(device) for device in inventory.devices]}
    measured = _measurements(inventory.profiles, inventory.links)
    tables.write(table | measured, path, "inventory")


def load_inventory(path: Path) -> Inventory:
    """Read an inventory from TOML; PlanError says what is wrong with it."""
    return tables.read(path, "inventory", _inventory, "write a [[devices]] table for each device")


def save_profile(profiles: Sequence[Profile], found: Sequence[Link], path: Path) -> None:
    """Write profiles and measured links as TOML."""
    tables.write(_measurements(profiles, found), path, "profile")


def load_profile(path: Path) -> Measurements:
    """Read a profile from TOML; PlanError says what is wrong with it."""
    return tables.read(path, "profile", _profile, f"measure one with `raymoe profile --to {path}`")


def _measurements(profiles: Sequence[Profile], found: Sequence[Link]) -> dict[str, Any]:
    table = {"links": [asdict(link) for link in found], "profiles": pace.to_tables(profiles)}
    return {key: entries for key, entries in table.items() if entries}


def _inventory(table: Mapping[str, Any]) -> Inventory:
    tables.check_keys("inventory", table, (), ("devices", "links", "profiles"))
    listed = tables.entries("inventory", "devices", table.get("devices", []))
    profiles, found = _found("inventory", table)
    devices = tuple(_device(number, entry) for number, entry in enumerate(listed))
    return Inventory(devices, found, profiles)


def _profile(table: Mapping[str, Any]) -> Measurements:
    tables.check_keys("profile", table, (), ("links", "profiles"))
    return _found("profile", table)


def _found(label: str, table: Mapping[str, Any]) -> Measurements:
    profiles = tables.entries(label, "profiles", table.get("profiles", ()))
    found = tables.entries(label, "links", table.get("links", ()))
    return (
        tuple(pace.from_table(entry) for entry in profiles),
        tuple(links.from_table(entry) for entry in found),
    )


def _device_table(device: Device) -> dict[str, Any]:
    table = asdict(device) | {
        "resources": dict(device.resources),
        "labels": dict(device.labels),
    }
    return {key: value for key, value in table.items() if value or key not in _UNSAID}


def _device(number: int, entry: Mapping[str, Any]) -> Device:
    label = f"device {entry.get('name', f'number {number}')}"
    optional = ("threads", "speed", *_UNSAID)
    tables.check_keys(label, entry, ("name", "node", "kind", "memory_bytes"), optional)
    return Device(
        name=tables.text(label, "name", entry["name"]),
        node=tables.text(label, "node", entry["node"]),
        kind=tables.text(label, "kind", entry["kind"]),
        memory_bytes=tables.whole(label, "memory_bytes", entry["memory_bytes"]),
        threads=tables.whole(label, "threads", entry.get("threads", 1)),
        speed=tables.number(label, "speed", entry.get("speed", 1.0)),
        resources=tables.amounts(label, "resources", entry.get("resources", {})),
        labels=tables.words(label, "labels", entry.get("labels", {})),
        accelerator=tables.text(label, "accelerator", entry.get("accelerator", "")),
        host_bytes=tables.whole(label, "host_bytes", entry.get("host_bytes", 0)),
    )
