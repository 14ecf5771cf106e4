"""Kubernetes nodes as an Inventory: from the API server, or from ``kubectl get nodes -o json``.

A node offers everything that it can allocate to pods, also what other pods use at the moment.
Labels of NVIDIA's feature discovery, AMD's node labeller, GKE or Karpenter give the kind and the
memory of its GPUs. A taint with the name of the GPU resource excludes only pods that ask for no
GPU, so rank pods tolerate it. Other accelerators, and slices of GPUs, are reported and not used.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes.utils.quantity import parse_quantity

from cluster import nodes as offers
from cluster.kube.api import Api, Refusal
from cluster.kube.kinds import NODE
from cluster.nodes import LeftOut, Node
from moe.errors import ClusterError
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.kinds import kind_of_gpu
from moe.planning.devices.rates import AMD, NVIDIA

Table = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Gpus:
    """Names for the GPUs of one vendor: their resource, and the labels with product and memory.

    ``memory`` labels give MiB, or a number with a unit (``192G``).
    """

    vendor: str
    resource: str
    product: tuple[str, ...]
    memory: tuple[str, ...]


GPUS = (
    Gpus(
        NVIDIA,
        "nvidia.com/gpu",
        (
            "nvidia.com/gpu.product",
            "cloud.google.com/gke-accelerator",
            "karpenter.k8s.aws/instance-gpu-name",
        ),
        ("nvidia.com/gpu.memory", "karpenter.k8s.aws/instance-gpu-memory"),
    ),
    Gpus(
        AMD,
        "amd.com/gpu",
        ("amd.com/gpu.product-name", "beta.amd.com/gpu.product-name"),
        ("amd.com/gpu.vram", "beta.amd.com/gpu.vram"),
    ),
)

OTHERS = re.compile(
    r"habana\.ai/gaudi|google\.com/tpu|aws\.amazon\.com/neuron\w*|gpu\.intel\.com/(i915|xe)"
    r"|huawei\.com/Ascend\w+|nvidia\.com/mig-.+|nvidia\.com/gpu\.shared|amd\.com/(cpx|dpx|qpx).*"
    r"|furiosa\.ai/.+|rebellions\.ai/.+|tenstorrent\.com/.+|metax-tech\.com/.+|cambricon\.com/.+"
)
"""Resources of accelerators and GPU slices on which ranks cannot compute."""

_PRODUCTS = frozenset(key for each in GPUS for key in each.product)
_RESOURCES = frozenset(each.resource for each in GPUS)


def read_nodes(api: Api) -> Sequence[Table]:
    """Return all nodes as the API server describes them."""
    try:
        return api.every(NODE, None)
    except Refusal as refusal:
        raise ClusterError(
            f"the API server at {api.host} did not list its nodes: {refusal.status} "
            f"{refusal.message}; use an account that may list nodes, or save the nodes with "
            "`kubectl get nodes -o json` under such an account"
        ) from refusal


def load_nodes(path: Path) -> list[Table]:
    """Read nodes from a JSON or YAML file that holds a list of nodes or a single node."""
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _no_dump(path, f"cannot be read as JSON or YAML: {error}") from error
    if not isinstance(table, dict):
        raise _no_dump(path, "holds no object")
    items = table.get("items", [table])
    if not isinstance(items, list):
        raise _no_dump(path, "holds items that are no list")
    for item in items:
        # The items of a NodeList, as the API server writes it, do not repeat their kind.
        kind = item.get("kind", "Node") if isinstance(item, dict) else type(item).__name__
        if kind != "Node":
            raise _no_dump(path, f"holds a {kind}")
    return items


def inventory_of_nodes(nodes: Sequence[Table], threads: int | None = 1) -> Inventory:
    """Return the devices of the usable nodes; ``left_out`` names the other nodes.

    A device is a GPU or, if no node has a GPU, ``threads`` cores (None: all cores of a node).
    """
    able, kept_out = _sorted_out(nodes)
    if not able:
        listed = "; ".join(f"{each.node}: {each.reason}" for each in kept_out[:5])
        raise ClusterError(
            f"none of the {len(nodes)} Kubernetes nodes can be used ({listed or 'there is none'}); "
            "make one ready, free it of its taint, or add a node"
        )
    return offers.inventory(able, threads)


def left_out(nodes: Sequence[Table], threads: int | None = 1) -> tuple[LeftOut, ...]:
    """Return nodes and accelerators that ``inventory_of_nodes`` does not use, and why."""
    able, kept_out = _sorted_out(nodes)
    found = [*kept_out, *offers.left_out(able, threads)]
    return tuple(sorted(found, key=lambda each: each.node))


def node_selectors(nodes: Sequence[Table]) -> dict[str, dict[str, str]]:
    """Return for each kind of GPU the label that all usable nodes with such GPUs have.

    A kind whose nodes have no label in common has an empty selector: any node with GPUs.
    """
    found: dict[str, set[tuple[str, str]]] = {}
    for item in sorted(nodes, key=_name):
        if next(_reasons(item), None) is None and (node := _node(item)).gpus:
            pairs = {(key, value) for key, value in _labels(item).items() if key in _PRODUCTS}
            found[node.gpu_kind] = found.get(node.gpu_kind, pairs) & pairs
    return {kind: dict(sorted(pairs)[:1]) for kind, pairs in found.items()}


def _sorted_out(nodes: Sequence[Table]) -> tuple[list[Node], list[LeftOut]]:
    """Return the nodes that accept our pods, by name, and the other nodes."""
    able, kept_out = [], []
    for item in sorted(nodes, key=_name):
        reason = next(_reasons(item), None)
        if reason is None:
            able.append(_node(item))
        else:
            kept_out.append(LeftOut(_name(item), reason))
    return able, kept_out


def _reasons(item: Table) -> Iterator[str]:
    """Yield the reasons why our pods cannot run on a node, or cannot use its GPUs."""
    spec, status = item.get("spec") or {}, item.get("status") or {}
    if spec.get("unschedulable"):
        yield "it is cordoned: no new pod is scheduled there"
    ready = [each for each in status.get("conditions") or () if each.get("type") == "Ready"]
    if not ready or ready[0].get("status") != "True":
        reason = ready[0].get("reason") or ready[0].get("status") if ready else "it reports nothing"
        yield f"it is not ready ({reason})"
    for taint in spec.get("taints") or ():
        ours = taint.get("key") in _RESOURCES and taint.get("effect") == "NoSchedule"
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not ours:
            value = f"={taint['value']}" if taint.get("value") else ""
            yield f"its taint {taint.get('key')}{value}:{taint['effect']} keeps pods away"
    product = _first(_labels(item), GPUS[0].product)
    if "-MIG-" in product:
        yield f"its GPUs are cut into slices ({product}), which NCCL does not support"
    if product.endswith("-SHARED"):
        yield f"its GPUs are time-shared ({product}); a rank needs a GPU of its own"


def _node(item: Table) -> Node:
    labels = _labels(item)
    gpus = next((each for each in GPUS if _allocatable(item, each.resource)), GPUS[0])
    product = _first(labels, gpus.product)
    memory = _memory(item, _first(labels, gpus.memory))
    allocatable = (item.get("status") or {}).get("allocatable") or {}
    others = {name: _allocatable(item, name) for name in allocatable if OTHERS.fullmatch(name)}
    return Node(
        name=_name(item),
        cpus=_allocatable(item, "cpu"),
        gpus=_allocatable(item, gpus.resource),
        gpu_kind=kind_of_gpu(product, memory) if product else "",
        memory_bytes=_allocatable(item, "memory"),
        labels=labels,
        gpu_memory_bytes=memory,
        vendor=gpus.vendor,
        others={name: amount for name, amount in others.items() if amount},
    )


def _memory(item: Table, text: str) -> int | None:
    """Return the bytes in a label of GPU memory; the unit is MiB unless the label has one."""
    if not text:
        return None
    amount = _amount(item, "the label of GPU memory", text)
    return (amount * 2**20 if text.isdecimal() else amount) or None


def _name(item: Table) -> str:
    name = (item.get("metadata") or {}).get("name")
    if not name:
        raise ClusterError(
            "a Kubernetes node has no metadata.name; give nodes as `kubectl get nodes -o json` does"
        )
    return str(name)


def _labels(item: Table) -> dict[str, str]:
    return dict((item.get("metadata") or {}).get("labels") or {})


def _first(labels: Mapping[str, str], keys: Sequence[str]) -> str:
    return next((labels[key] for key in keys if labels.get(key)), "")


def _allocatable(item: Table, resource: str) -> int:
    """Return the allocatable amount of a resource on a node, rounded down; 0 if there is none."""
    amounts = (item.get("status") or {}).get("allocatable") or {}
    return _amount(item, f"allocatable {resource}", amounts.get(resource, "0"))


def _amount(item: Table, what: str, text: object) -> int:
    try:
        return int(parse_quantity(text))  # type: ignore[no-untyped-call]
    except (ValueError, ArithmeticError) as error:
        raise ClusterError(
            f"node {_name(item)} gives {text!r} for {what}, which is not a Kubernetes quantity; "
            "give one like 8, 7910m or 64Gi"
        ) from error


def _no_dump(path: Path, found: str) -> ClusterError:
    return ClusterError(
        f"{path} should hold Kubernetes nodes but {found}; write it with `kubectl get nodes -o "
        f"json > {path}`"
    )
