"""What Ray knows of its nodes, as an Inventory that plans are made for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from cluster.nodes import Node, inventory, kind_of_gpu
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.naming import told_apart


def probe(threads: int | None = 1) -> Inventory:
    """Ask Ray once what there is: a device per GPU, or where there is none per ``threads`` cores.

    ``threads`` None takes all cores of a node as one device.
    """
    return inventory(living_nodes(ray.nodes()), threads)  # type: ignore[no-untyped-call]


def living_nodes(table: Sequence[Mapping[str, Any]]) -> tuple[Node, ...]:
    """Read the living nodes out of the table of ``ray.nodes()``, ordered by name.

    Nodes that share a name, as all nodes on one machine do, are told apart by their id.
    """
    alive = [row for row in table if row["Alive"]]
    names = Counter(str(row["NodeName"]) for row in alive)
    nodes = [_node(row, shared=names[str(row["NodeName"])] > 1) for row in alive]
    return tuple(sorted(nodes, key=lambda node: node.name))


def _node(row: Mapping[str, Any], shared: bool) -> Node:
    resources: Mapping[str, float] = row["Resources"]
    name = str(row["NodeName"])
    return Node(
        name=told_apart(name, str(row["NodeID"])) if shared else name,
        cpus=int(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
        gpu_kind=_gpu_kind(resources),
        memory_bytes=int(resources.get("memory", 0)),
        labels=dict(row.get("Labels", {})),
    )


def _gpu_kind(resources: Mapping[str, float]) -> str:
    prefix = "accelerator_type:"
    kinds = sorted(key.removeprefix(prefix) for key in resources if key.startswith(prefix))
    return kind_of_gpu(kinds[0]) if kinds else ""
