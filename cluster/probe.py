"""What Ray knows of its nodes, as an Inventory that plans are made for."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from moe.errors import ClusterError
from moe.planning.inventory import CPU, Device, Inventory

GPU_MEMORY_BYTES: Mapping[str, int] = {
    "T4": 16 * 2**30,
    "P100": 16 * 2**30,
    "V100": 16 * 2**30,
    "A10G": 24 * 2**30,
    "L4": 24 * 2**30,
    "A100": 40 * 2**30,
    "A100-40G": 40 * 2**30,
    "A100-80G": 80 * 2**30,
    "H100": 80 * 2**30,
}
"""Memory by the name Ray gives a GPU; where a name covers several sizes, the smallest of them."""


@dataclass(frozen=True, slots=True)
class Node:
    """One living Ray node: what it offers to actors, and its labels."""

    name: str
    cpus: int
    gpus: int
    gpu_kind: str
    memory_bytes: int
    labels: Mapping[str, str]


def probe(threads: int | None = 1) -> Inventory:
    """Ask Ray once what there is: a device per GPU, or where there is none per ``threads`` cores.

    Nodes without a GPU are left out where others have one: ranks on both cannot talk to each
    other. ``threads`` None takes all cores of a node as one device.
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


def inventory(nodes: Sequence[Node], threads: int | None = 1) -> Inventory:
    """Return the devices of the nodes, those with GPUs alone where there are any.

    Nodes that offer too little for one have none. Speeds stay 1: Ray does not measure them, a
    profile does.
    """
    used = [node for node in nodes if node.gpus] or nodes
    devices = [device for node in used for device in _devices(node, threads)]
    if not devices:
        raise ClusterError(
            f"none of the {len(nodes)} living Ray nodes offers {threads or 1} CPUs or a GPU; "
            "ask for fewer threads, add a worker node, or start the cluster with --num-cpus"
        )
    return Inventory(tuple(devices))


def _node(row: Mapping[str, Any], shared: bool) -> Node:
    resources: Mapping[str, float] = row["Resources"]
    name = str(row["NodeName"])
    return Node(
        name=f"{name}-{str(row['NodeID'])[:8]}" if shared else name,
        cpus=int(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
        gpu_kind=_gpu_kind(resources),
        memory_bytes=int(resources.get("memory", 0)),
        labels=dict(row.get("Labels", {})),
    )


def _gpu_kind(resources: Mapping[str, float]) -> str:
    prefix = "accelerator_type:"
    kinds = sorted(key.removeprefix(prefix) for key in resources if key.startswith(prefix))
    return kinds[0] if kinds else ""


def _devices(node: Node, threads: int | None) -> Iterator[Device]:
    if node.gpus:
        yield from _gpu_devices(node)
        return
    threads = threads or max(node.cpus, 1)
    count = node.cpus // threads
    for number in range(count):
        yield Device(
            name=f"{node.name}/cpu{number}",
            node=node.name,
            kind=CPU,
            memory_bytes=node.memory_bytes // count,
            threads=threads,
        )


def _gpu_devices(node: Node) -> Iterator[Device]:
    if node.gpu_kind not in GPU_MEMORY_BYTES:
        raise ClusterError(
            f"node {node.name} offers {node.gpus} GPUs of kind {node.gpu_kind or 'unknown'}, whose "
            f"memory is not known (known: {', '.join(GPU_MEMORY_BYTES)}); describe the devices in "
            "an inventory file and plan with --inventory"
        )
    for number in range(node.gpus):
        yield Device(
            name=f"{node.name}/gpu{number}",
            node=node.name,
            kind=node.gpu_kind,
            memory_bytes=GPU_MEMORY_BYTES[node.gpu_kind],
            threads=max(1, node.cpus // node.gpus),
        )
