"""What nodes offer, whoever tells of them, as the devices of an Inventory."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from moe.errors import ClusterError
from moe.planning.devices.inventory import CPU, Device, Inventory
from moe.planning.devices.naming import device_name
from moe.planning.devices.rates import GPUS

_ABOUT = 0.07
"""A driver reports a little less or more than the gibibytes a GPU is sold with."""


@dataclass(frozen=True, slots=True)
class Node:
    """One living node: what it offers to actors, and its labels.

    ``gpu_kind`` is one of ``moe.planning.rates.GPUS`` where it is known there. ``gpu_memory_bytes``
    is of one GPU, where the node tells it; otherwise the data sheet of its kind does.
    """

    name: str
    cpus: int
    gpus: int
    gpu_kind: str
    memory_bytes: int
    labels: Mapping[str, str]
    gpu_memory_bytes: int | None = None


def inventory(nodes: Sequence[Node], threads: int | None = 1) -> Inventory:
    """Return a device per GPU, or where there is none at all per ``threads`` cores.

    Nodes without a GPU are left out where others have one: ranks on both cannot talk to each
    other. Nodes that offer too little for a device have none; ``threads`` None takes all cores of a
    node as one. Speeds stay 1: a profile measures them.
    """
    used = [node for node in nodes if node.gpus] or nodes
    devices = [device for node in used for device in _devices(node, threads)]
    if not devices:
        raise ClusterError(
            f"none of the {len(nodes)} living nodes offers {threads or 1} CPUs or a GPU; ask for "
            "fewer threads, add a worker node, or start Ray with --num-cpus"
        )
    return Inventory(tuple(devices))


def kind_of_gpu(product: str, memory_bytes: int | None = None) -> str:
    """Return the kind that a product is, as drivers, clouds and Ray call it; itself if unknown.

    A kind is known by its words, and the one with most of them is taken: ``A100-80G`` is in
    ``NVIDIA-A100-SXM4-80GB``, and in ``NVIDIA-A100-PG509-200`` if its memory says so.
    """
    words = set(re.split(r"[^A-Z0-9.]+", product.upper()))

    def told(kind: str, word: str) -> bool:
        if not re.fullmatch(r"\d+G", word):
            return word in words
        size = GPUS[kind].memory_bytes
        near = memory_bytes is not None and abs(memory_bytes / size - 1) < _ABOUT
        return f"{word}B" in words or word in words or near

    kinds = [kind for kind in GPUS if all(told(kind, word) for word in kind.split("-"))]
    return max(kinds, key=lambda kind: kind.count("-"), default=product)


def _devices(node: Node, threads: int | None) -> Iterator[Device]:
    if node.gpus:
        yield from _gpu_devices(node)
        return
    threads = threads or max(node.cpus, 1)
    count = node.cpus // threads
    for number in range(count):
        yield Device(
            name=device_name(node.name, "cpu", number),
            node=node.name,
            kind=CPU,
            memory_bytes=node.memory_bytes // count,
            threads=threads,
        )


def _gpu_devices(node: Node) -> Iterator[Device]:
    memory = node.gpu_memory_bytes
    if memory is None:
        if node.gpu_kind not in GPUS:
            raise ClusterError(
                f"node {node.name} offers {node.gpus} GPUs of kind {node.gpu_kind or 'unknown'}, "
                f"whose memory is not known (known: {', '.join(GPUS)}); describe the devices in "
                "an inventory file and plan with --inventory"
            )
        memory = GPUS[node.gpu_kind].memory_bytes
    for number in range(node.gpus):
        yield Device(
            name=device_name(node.name, "gpu", number),
            node=node.name,
            kind=node.gpu_kind,
            memory_bytes=memory,
            threads=max(1, node.cpus // node.gpus),
        )
