"""How devices and nodes of a cluster are called, so that a plan's devices are found again."""

import re

_DEVICE = re.compile(r"(?P<node>.+)/[a-z]+\d+")


def device_name(node: str, kind: str, number: int) -> str:
    """Return the name of a device: ``NODE/cpu0``, ``NODE/gpu1``."""
    return f"{node}/{kind}{number}"


def node_of(device: str) -> str | None:
    """Return the node that a device's name begins with, or None where it is called otherwise."""
    found = _DEVICE.fullmatch(device)
    return found["node"] if found else None


def told_apart(node: str, node_id: str) -> str:
    """Return the name of a node that shares its own with others."""
    return f"{node}-{node_id[:8]}"
