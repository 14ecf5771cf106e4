"""Names of devices and nodes of a cluster, so that the devices of a plan can be found again."""

import re

_DEVICE = re.compile(r"(?P<node>.+)/[a-z]+\d+")


def device_name(node: str, kind: str, number: int) -> str:
    """Return the name of a device: ``NODE/cpu0``, ``NODE/gpu1``."""
    return f"{node}/{kind}{number}"


def node_of(device: str) -> str | None:
    """Return the node at the beginning of a device's name; None if the name has another form."""
    found = _DEVICE.fullmatch(device)
    return found["node"] if found else None


def told_apart(node: str, node_id: str) -> str:
    """Return a unique name for a node whose name several nodes have."""
    return f"{node}-{node_id[:8]}"
