"""Amounts of resources as Kubernetes writes them."""

from collections.abc import Mapping
from typing import Any

from cluster.kuberay.deployment.sizes import GIB

Table = dict[str, Any]


def quantity(memory_bytes: int) -> str:
    """Return bytes in Kubernetes form: in Gi if that is exact, else rounded up to Mi."""
    mebibytes = -(-memory_bytes // 2**20)
    return f"{mebibytes // 1024}Gi" if mebibytes % 1024 == 0 else f"{mebibytes}Mi"


def resources(
    cpus: int, memory_bytes: int, disk_gib: int, extra: Mapping[str, str] | None = None
) -> Table:
    """Return requests equal to limits, so that a pod is never the first to be evicted."""
    disk = {"ephemeral-storage": quantity(disk_gib * GIB)}
    amounts = {"cpu": str(cpus), "memory": quantity(memory_bytes), **disk, **(extra or {})}
    return {"requests": dict(amounts), "limits": dict(amounts)}
