"""Asks Ray for its nodes, as rooms for actors."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray._private.state import state as ray_state

from actors.crew.nodes.room import Room
from moe.planning.devices.naming import told_apart


def rooms() -> tuple[Room, ...]:
    """Ask Ray for its living nodes, without those that are being drained.

    What is free is Ray's own view, which may be some tenths of a second old.
    """
    table: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    free = available_resources_per_node()  # type: ignore[no-untyped-call]
    leaving = ray_state.get_draining_nodes()
    alive = [row for row in table if row["Alive"]]
    counts = Counter(str(row["NodeName"]) for row in alive)
    return tuple(
        Room(
            id=row["NodeID"],
            names=_names(str(row["NodeName"]), row["NodeID"], counts),
            total=row["Resources"],
            free=free.get(row["NodeID"], {}),
            labels=row.get("Labels", {}),
        )
        for row in alive
        if row["NodeID"] not in leaving
    )


def living_nodes() -> set[str]:
    """Ask Ray for the ids of its living nodes, with those that are being drained."""
    table: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {row["NodeID"] for row in table if row["Alive"]}


def _names(name: str, node_id: str, counts: Mapping[str, int]) -> tuple[str, ...]:
    """Return both names, first the one that ``cluster.probe`` gives the node now."""
    apart = told_apart(name, node_id)
    return (apart, name) if counts[name] > 1 else (name, apart)
