"""Faults that happen to a node: it is gone, or it says that it will go.

For tests and for runs that allow faults. Both act on the Ray cluster to which this process belongs.
"""

import time
from collections.abc import Mapping
from typing import Any

import psutil
import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import (  # type: ignore[attr-defined]
    DRAIN_NODE_REASON_PREEMPTION,
)

from moe.config.fault import Fault
from moe.errors import ClusterError

_HEAD = "node:__internal_head__"
"""The resource by which Ray marks the node of its head."""


def strike(fault: Fault, node_id: str) -> None:
    """Have a fault of kind ``node`` or ``drain`` happen to a node, by Ray's number of the node.

    ``node`` kills the raylet, which takes every process of the node along; for a node on this
    machine alone, and never that of the head, without which there is no cluster. ``drain`` tells
    Ray what a cloud tells of a machine that it takes back; Ray itself ends nothing at the deadline.
    ClusterError where the node is not there, or Ray refuses.
    """
    node = _living(fault, node_id)
    if fault.kind == "drain":
        _drain(fault, node_id)
    elif fault.kind == "node":
        _kill(fault, node_id, node)
    else:
        raise ClusterError(f"fault {fault} happens to a process; have its rank armed with it")


def _living(fault: Fault, node_id: str) -> Mapping[str, Any]:
    rows: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = {str(row["NodeID"]): row for row in rows if row["Alive"]}
    if node_id not in alive:
        raise ClusterError(
            f"fault {fault} is for node {node_id}, but Ray has {', '.join(sorted(alive))} alive; "
            "name a rank whose node lives"
        )
    return alive[node_id]


def _drain(fault: Fault, node_id: str) -> None:
    deadline = 0 if fault.seconds is None else int((time.time() + fault.seconds) * 1000)
    gcs = GcsClient(address=ray.get_runtime_context().gcs_address)
    accepted, refusal = gcs.drain_node(
        node_id, DRAIN_NODE_REASON_PREEMPTION, f"fault {fault}", deadline
    )
    if not accepted:
        raise ClusterError(f"Ray refused fault {fault} for node {node_id}: {refusal}")


def _kill(fault: Fault, node_id: str, node: Mapping[str, Any]) -> None:
    if _HEAD in node["Resources"]:
        raise ClusterError(
            f"fault {fault} is for the head node {node_id}, without which there is no cluster; "
            "name a rank on another node"
        )
    raylets = [process for process in psutil.process_iter() if _is_raylet(process, node_id)]
    if not raylets:
        raise ClusterError(
            f"fault {fault} kills the node {node_id} of {node['NodeManagerAddress']}, which is not "
            "a node of this machine; use kind drain, or end the machine itself"
        )
    for raylet in raylets:
        raylet.kill()


def _is_raylet(process: psutil.Process, node_id: str) -> bool:
    try:
        return process.name() == "raylet" and f"--node_id={node_id}" in process.cmdline()
    except psutil.Error:
        return False
