"""Pod templates of the head and of worker groups, for a namespace that restricts pods.

What KubeRay adds by itself is not repeated here: probes, init containers, /dev/shm, start commands.
"""

import re
from collections.abc import Mapping
from typing import Any

from cluster.kuberay.groups import Group, quantity
from cluster.kuberay.options import KubeOptions
from moe.planning.devices.inventory import CPU

RUN_LABEL = "raymoe/run"
ROLE_LABEL = "raymoe/role"
KIND_LABEL = "raymoe/kind"

HEAD_PORTS: Mapping[str, int] = {
    "gcs-server": 6379,
    "dashboard": 8265,
    "serve": 8000,
    "metrics": 8080,
    "as-metrics": 44217,
    "dash-metrics": 44227,
}
"""All of them, because KubeRay adds none to a head that names some."""

Table = dict[str, Any]


def head_template(options: KubeOptions) -> Table:
    """Return the head's pod: no ranks, but the only one that may speak to Kubernetes."""
    container = _container("ray-head", options) | {
        "ports": [{"name": name, "containerPort": port} for name, port in HEAD_PORTS.items()],
        "resources": resources(options.head_cpus, options.head_memory_bytes),
        "volumeMounts": [_mount(options)],
    }
    spec = _pod(options, container) | {"automountServiceAccountToken": options.autoscale}
    return {"metadata": {"labels": pod_labels(options, "head")}, "spec": spec}


def worker_template(group: Group, options: KubeOptions) -> Table:
    """Return a worker's pod: the CPU threads, memory and GPUs of one gang."""
    gpu = {options.gpu_resource: str(group.gpus)} if group.gpus else {}
    container = _container("ray-worker", options) | {
        "resources": resources(group.cpus, group.memory_bytes, gpu),
        "volumeMounts": [_mount(options)],
    }
    spec = _pod(options, container) | {"automountServiceAccountToken": False}
    if group.gpus:
        tolerated = {"key": options.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}
        spec["tolerations"] = [tolerated]
    if selector := options.node_selectors.get(group.kind):
        spec["nodeSelector"] = dict(selector)
    return {"metadata": {"labels": pod_labels(options, group.role)}, "spec": spec}


def submitter_template(options: KubeOptions) -> Table:
    """Return the pod that hands the job to the cluster; KubeRay fills in its command."""
    container = _container("ray-job-submitter", options) | {"resources": resources(1, 2**30)}
    spec = _pod(options, container) | {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
    }
    del spec["volumes"]
    return {"metadata": {"labels": pod_labels(options, "submitter")}, "spec": spec}


def pod_labels(options: KubeOptions, role: str) -> dict[str, str]:
    """Return our own labels; those of KubeRay do not say which run a pod belongs to."""
    return {RUN_LABEL: options.name, ROLE_LABEL: role}


def node_labels(group: Group) -> dict[str, str]:
    """Return labels of a group's Ray nodes, by which actors can ask for them."""
    own = {ROLE_LABEL: group.role, KIND_LABEL: label_value(group.kind)}
    return dict(group.labels) | own


def label_value(text: str) -> str:
    """Return text as a label value: at most 63 letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:63].strip("._-") or CPU


def resources(cpus: int, memory_bytes: int, extra: Mapping[str, str] | None = None) -> Table:
    """Return requests equal to limits, so that a pod is never the first to be evicted."""
    amounts = {"cpu": str(cpus), "memory": quantity(memory_bytes), **(extra or {})}
    return {"requests": dict(amounts), "limits": dict(amounts)}


def container_security() -> Table:
    """Return the strictest profile that Ray runs under."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _container(name: str, options: KubeOptions) -> Table:
    container: Table = {
        "name": name,
        "image": options.image,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": container_security(),
    }
    if options.environment:
        container["env"] = [
            {"name": key, "value": value} for key, value in sorted(options.environment.items())
        ]
    return container


def _pod(options: KubeOptions, container: Table) -> Table:
    spec: Table = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": options.user,
            "fsGroup": options.user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "storage", "persistentVolumeClaim": {"claimName": options.claim}},
        ],
    }
    if options.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in options.pull_secrets]
    return spec


def _mount(options: KubeOptions) -> Table:
    return {"name": "storage", "mountPath": options.mount}
