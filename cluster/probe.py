"""The nodes of a Ray cluster as an Inventory."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from cluster.facts import asked
from cluster.nodes import Node, inventory
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.kinds import kind_of_gpu
from moe.planning.devices.naming import told_apart
from moe.planning.devices.rates import vendor_of

OTHERS = ("HPU", "TPU", "NPU", "neuron_cores", "TTNPU", "FURIOSA", "RBLN", "MBLT")
"""Ray's resources of accelerators on which ranks cannot compute; HPU is Gaudi."""

_KIND = "accelerator_type:"
_NO_TORCH = re.compile(r"Intel-|MX?C\d|Apple-|M\d+(-|$)")
"""Kinds that Ray counts as GPUs but on which ranks cannot compute: Intel, MetaX and Apple."""


def probe(threads: int | None = 1) -> Inventory:
    """Return one device per GPU of the Ray cluster or, if it has no GPU, one per ``threads`` cores.

    With ``threads`` None, all cores of a node are one device.
    """
    return inventory(nodes_of_ray(), threads)


def nodes_of_ray() -> tuple[Node, ...]:
    """Return the alive nodes of the Ray cluster, with what they tell of themselves."""
    return asked(living_nodes(ray.nodes()))  # type: ignore[no-untyped-call]


def living_nodes(table: Sequence[Mapping[str, Any]]) -> tuple[Node, ...]:
    """Return the alive nodes in the table of ``ray.nodes()``, ordered by name.

    Nodes with equal names, such as several nodes on one machine, get their id as a suffix.
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
        accelerator=word if gpus else "",
        id=str(row["NodeID"]),
        memory_bytes=int(resources.get("memory", 0)),
        labels=dict(row.get("Labels", {})),
        vendor=vendor_of(word),
        others=others,
    )


def _accelerator(resources: Mapping[str, float]) -> str:
    """Return Ray's name for the accelerators of a node; empty if it has none.

    Of several, as where somebody marked an ``A100`` as ``A100-80G`` too, the most particular.
    """
    found = sorted(key.removeprefix(_KIND) for key in resources if key.startswith(_KIND))
    return max(found, key=lambda word: kind_of_gpu(word).count("-"), default="")
