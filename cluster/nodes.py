"""Nodes, from any source, as the devices of an Inventory."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from moe.errors import ClusterError
from moe.planning.devices.inventory import CPU, Device, Inventory
from moe.planning.devices.kinds import kinds_of_word
from moe.planning.devices.naming import device_name
from moe.planning.devices.rates import AMD, GPUS, NVIDIA
from moe.sizes import size_text

_LIBRARIES = {NVIDIA: "NCCL", AMD: "RCCL"}
_LISTED = 5


@dataclass(frozen=True, slots=True)
class Node:
    """One alive node: the resources that it offers to actors, and its labels.

    ``gpu_kind`` is a key of ``moe.planning.devices.rates.GPUS`` if that table has the kind.
    ``gpu_memory_bytes`` is the memory of one GPU as the node reports it; if the node does not
    report it, the data sheet of the kind gives it. ``accelerator`` is Ray's word for the GPUs and
    ``id`` Ray's number of the node, empty where a source does not know them; ``processor`` is the
    name of the CPU, empty where nobody asked.
    ``others`` names the resources of accelerators that ranks cannot use.
    """

    name: str
    cpus: int
    gpus: int
    gpu_kind: str
    memory_bytes: int
    labels: Mapping[str, str]
    gpu_memory_bytes: int | None = None
    accelerator: str = ""
    processor: str = ""
    id: str = ""
    vendor: str = NVIDIA
    others: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A node, or the accelerators of a used node, that plans do not use; and why."""

    node: str
    reason: str
    whole: bool = True

    def __str__(self) -> str:
        return f"left out {'node' if self.whole else 'on node'} {self.node}: {self.reason}"


def inventory(nodes: Sequence[Node], threads: int | None = 1) -> Inventory:
    """Return one device per GPU or, if no node has a GPU, one per ``threads`` cores.

    With ``threads`` None, all cores of a node are one device. Ranks on CPUs, NVIDIA GPUs and AMD
    GPUs cannot communicate with each other, so only one of these kinds is used: the vendor with the
    most GPUs. ``left_out`` names the rest. Every speed is 1; a profile measures speeds.
    """
    used, reasons = _sorted_out(nodes, threads)
    devices = [device for node in used for device in _devices(node, threads)]
    if not devices:
        raise _nothing(nodes, reasons, threads or 1)
    return Inventory(tuple(devices))


def left_out(nodes: Sequence[Node], threads: int | None = 1) -> tuple[LeftOut, ...]:
    """Return the nodes, and the accelerators of used nodes, that ``inventory`` does not use."""
    used, reasons = _sorted_out(nodes, threads)
    found = [LeftOut(name, reason) for name, reason in reasons.items()]
    found += [
        LeftOut(node.name, f"{_others(node)}; its {_used(node)} are planned for", whole=False)
        for node in used
        if node.others
    ]
    return tuple(sorted(found, key=lambda each: each.node))


def cautions(nodes: Sequence[Node]) -> tuple[str, ...]:
    """Return what is assumed of GPUs whose word names several sizes, where no node told its own."""
    found = {}
    for node in nodes:
        sizes = sorted({GPUS[kind].memory_bytes for kind in kinds_of_word(node.accelerator)})
        if node.gpus and node.gpu_memory_bytes is None and len(sizes) > 1:
            listed = " and ".join(size_text(size) for size in sizes)
            found[node.accelerator] = (
                f"node {node.name} did not tell the memory of its {node.accelerator} GPUs, which "
                f"exist with {listed}; planned with "
                f"{size_text(GPUS[node.gpu_kind].memory_bytes)}, give --inventory for more"
            )
    return tuple(found.values())


def _sorted_out(nodes: Sequence[Node], threads: int | None) -> tuple[list[Node], dict[str, str]]:
    """Return the nodes to use, and by name the reasons why the other nodes are not used."""
    known = [node for node in nodes if node.gpus and not _unknown(node)]
    counts: Counter[str] = Counter()
    for node in known:
        counts[node.vendor] += node.gpus
    vendor = counts.most_common(1)[0][0] if counts else None
    has_gpus = any(node.gpus for node in nodes)
    used, reasons = [], {}
    for node in nodes:
        reason = _unknown(node) or _unlike(node, vendor, has_gpus)
        if reason is None and not node.gpus and node.cpus < (threads or 1):
            reason = f"it offers {node.cpus} CPUs, a device takes {threads or 1}"
        if reason is None:
            used.append(node)
        else:
            reasons[node.name] = f"{reason}; {_others(node)}" if node.others else reason
    return used, reasons


def _unknown(node: Node) -> str | None:
    """Return a required fact about a node's GPUs that is unknown, as a reason; None if all is
    known.
    """
    if not node.gpus:
        return None
    if not node.gpu_kind:
        return (
            f"no label names the kind of its {node.gpus} {_brand(node)} GPUs; let the feature "
            "discovery or node labeller of their vendor label it, or describe them in an "
            "inventory file (--inventory)"
        )
    if node.gpu_memory_bytes is None and node.gpu_kind not in GPUS:
        return (
            f"its {node.gpus} GPUs are of kind {node.gpu_kind}, whose memory is not known (known: "
            f"{', '.join(GPUS)}); describe them in an inventory file (--inventory)"
        )
    return None


def _unlike(node: Node, vendor: str | None, has_gpus: bool) -> str | None:
    """Return why ranks on a node could not communicate with ranks on the nodes in use."""
    if not has_gpus:
        return None
    if not node.gpus:
        return "it has no GPU, other nodes have, and CPUs cannot communicate with GPUs"
    if node.vendor == vendor:
        return None
    return (
        f"its {node.gpus} {_brand(node)} GPUs ({node.gpu_kind}) cannot communicate with the GPUs "
        f"of other nodes ({_LIBRARIES.get(node.vendor, node.vendor)}, "
        f"{_LIBRARIES.get(vendor or '', 'NCCL')}"
        "); plan for these GPUs alone with --inventory"
    )


def _nothing(nodes: Sequence[Node], reasons: Mapping[str, str], threads: int) -> ClusterError:
    if any(node.gpus for node in nodes):
        listed = "; ".join(f"node {name}: {why}" for name, why in [*reasons.items()][:_LISTED])
        return ClusterError(f"the GPUs of the cluster cannot be planned for: {listed}")
    return ClusterError(
        f"none of the {len(nodes)} living nodes offers {threads} CPUs or a GPU; ask for fewer "
        "threads, add a worker node, or start Ray with --num-cpus"
    )


def _others(node: Node) -> str:
    found = ", ".join(f"{amount} {name}" for name, amount in sorted(node.others.items()))
    return f"its {found} cannot be used: ranks compute on CPUs and on whole NVIDIA or AMD GPUs"


def _used(node: Node) -> str:
    return f"{node.gpus} GPUs" if node.gpus else f"{node.cpus} CPU cores"


def _brand(node: Node) -> str:
    return {AMD: "AMD", NVIDIA: "NVIDIA"}.get(node.vendor, node.vendor)


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
    memory = node.gpu_memory_bytes or GPUS[node.gpu_kind].memory_bytes
    for number in range(node.gpus):
        yield Device(
            name=device_name(node.name, "gpu", number),
            node=node.name,
            kind=node.gpu_kind,
            memory_bytes=memory,
            threads=max(1, node.cpus // node.gpus),
            accelerator=node.accelerator,
            host_bytes=node.memory_bytes // node.gpus,
        )
