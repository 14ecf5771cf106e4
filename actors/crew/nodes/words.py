"""Amounts of resources in words."""

from collections.abc import Iterable

from actors.crew.nodes.bundles import KIND
from actors.crew.nodes.room import Amounts, Room
from moe.planning.devices.needs import Labels
from moe.sizes import size_text

MEMORY = "memory"


def asked_text(amounts: Amounts) -> str:
    """Return what is asked for: ``2 CPU, 1 GPU of kind A100, 3.5 GB memory``."""
    kinds = " and ".join(name.removeprefix(KIND) for name in amounts if name.startswith(KIND))
    parts = []
    for name, amount in amounts.items():
        if not name.startswith(KIND):
            kind = f" of kind {kinds}" if name == "GPU" and kinds else ""
            parts.append(f"{amount_text(name, amount)}{kind}")
    return ", ".join(parts)


def found_text(room: Room, names: Iterable[str], idle: bool) -> str:
    """Return what a node has of some resources, or has free of what it has."""
    parts = []
    for name in names:
        has, free = room.total.get(name, 0.0), room.free.get(name, 0.0)
        if name.startswith(KIND):
            parts.append(f"no GPU of kind {name.removeprefix(KIND)}")
        elif idle or not has:
            parts.append(amount_text(name, has))
        else:
            parts.append(f"{amount_text(name, free)} free of {amount_text(name, has)}")
    return ", ".join(parts)


def amount_text(name: str, amount: float) -> str:
    """Return one amount: ``2 CPU``, ``3.5 GB memory``."""
    if name != MEMORY:
        return f"{amount:g} {name}"
    return f"{amount / 1e9:.3g} GB memory" if amount >= 1e8 else f"{size_text(amount)} memory"


def labels_text(labels: Labels) -> str:
    """Return selectors: ``rack = in(r0, r1), role = expert``."""
    return ", ".join(f"{key} = {text}" for key, text in labels)
