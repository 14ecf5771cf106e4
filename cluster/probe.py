"""What Ray knows of its nodes, as an Inventory that plans are made for."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from cluster.nodes import Node, inventory, kind_of_gpu
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.naming import told_apart
from moe.planning.devices.rates import vendor_of

OTHERS = ("HPU", "TPU", "NPU", "neuron_cores", "TTNPU", "FURIOSA", "RBLN", "MBLT")
"""Ray's resources of accelerators that no rank computes on; HPU is Gaudi."""

_KIND = "accelerator_type:"
_NO_TORCH = re.compile(r"Intel-|MX?C\d|Apple-|M\d+(-|$)")
"""Kinds that Ray counts as GPUs and that ranks do not compute on: of Intel, MetaX and Apple."""


def probe(threads: int | None = 1) -> Inventory:
    """Ask Ray once what there is: a device per GPU, or where there is none per ``threads`` cores.

    ``threads`` None takes all cores of a node as one device.
    """
    return inventory(nodes_of_ray(), threads)


def nodes_of_ray() -> tuple[Node, ...]:
    """Ask Ray once for its living nodes."""
    return living_nodes(ray.nodes())  # type: ignore[no-untyped-call]


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
    name, word, gpus = str(row["NodeName"]), _accelerator(resources), int(resources.get("GPU", 0))
    others = {key: int(resources[key]) for key in OTHERS if resources.get(key)}
    if gpus and _NO_TORCH.match(word):
        others, gpus = others | {f"GPU of {word}": gpus}, 0
    return Node(
        name=told_apart(name, str(row["NodeID"])) if shared else name,
        cpus=int(resources.get("CPU", 0)),
        gpus=gpus,
        gpu_kind=kind_of_gpu(word) if gpus else "",
        memory_bytes=int(resources.get("memory", 0)),
        labels=dict(row.get("Labels", {})),
        vendor=vendor_of(word),
        others=others,
    )


def _accelerator(resources: Mapping[str, float]) -> str:
    """Return Ray's word for the accelerators of a node, empty where it has none."""
    found = sorted(key.removeprefix(_KIND) for key in resources if key.startswith(_KIND))
    return found[0] if found else ""
