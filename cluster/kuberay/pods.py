"""Pod templates of the head and of worker groups, for namespaces that enforce pod security.

KubeRay itself adds probes, init containers, /dev/shm and start commands.
"""

import re
from collections.abc import Mapping
from typing import Any

from cluster.kuberay.deployment import Deployment, PodsSection, SecuritySection, Toleration
from cluster.kuberay.groups import Group, quantity
from moe.planning.devices.inventory import CPU

RUN_LABEL = "raymoe/run"
ROLE_LABEL = "raymoe/role"
KIND_LABEL = "raymoe/kind"

NOTICE = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
"""The variable by which ``ray start`` knows how long its node may take to leave after SIGTERM: it
tells Ray's head so, with the deadline, and ends when the node is empty or the time is over.
"""

HEAD_PORTS: Mapping[str, int] = {
    "gcs-server": 6379,
    "dashboard": 8265,
    "serve": 8000,
    "metrics": 8080,
    "as-metrics": 44217,
    "dash-metrics": 44227,
}
"""All ports of the head: KubeRay adds no default ports to a head that names any port."""

Table = dict[str, Any]


def head_template(deployment: Deployment, run: str) -> Table:
    """Return the head's pod: it holds no ranks, and only this pod may call the Kubernetes API."""
    head = deployment.head
    container = _container("ray-head", deployment) | {
        "ports": [{"name": name, "containerPort": port} for name, port in HEAD_PORTS.items()],
        "resources": resources(head.cpus, head.memory_bytes),
        "volumeMounts": [_mount(deployment)],
    }
    spec = _ray_pod(deployment, container, head.node_selector)
    spec |= {"automountServiceAccountToken": deployment.workers.autoscale}
    return {"metadata": _metadata(deployment, run, "head"), "spec": spec}


def worker_template(group: Group, deployment: Deployment, run: str) -> Table:
    """Return a worker's pod: the driver, or one gang with its CPU threads, memory and GPUs.

    When Kubernetes deletes it, its ranks are told to leave (``cluster.watch``).
    """
    workers = deployment.workers
    gpu = {workers.gpu_resource: str(group.gpus)} if group.gpus else {}
    notice = {NOTICE: str(deployment.pods.notice_seconds)}
    container = _container("ray-worker", deployment, notice) | {
        "resources": resources(group.cpus, group.memory_bytes, gpu),
        "volumeMounts": [_mount(deployment)],
    }
    holds_ranks = group.role == "rank"
    by_kind = workers.node_selectors.get(group.kind, {})
    selected = by_kind if holds_ranks else deployment.driver.node_selector
    spec = _ray_pod(deployment, container, selected) | {"automountServiceAccountToken": False}
    if holds_ranks and (tolerated := _tolerations(group, deployment)):
        spec["tolerations"] = tolerated
    return {"metadata": _metadata(deployment, run, group.role), "spec": spec}


def submitter_template(deployment: Deployment, run: str) -> Table:
    """Return the pod that submits the job to the cluster; KubeRay fills in its command."""
    container = _container("ray-job-submitter", deployment) | {"resources": resources(1, 2**30)}
    spec = _pod(deployment, container) | {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
    }
    return {"metadata": _metadata(deployment, run, "submitter"), "spec": spec}


def node_labels(group: Group) -> dict[str, str]:
    """Return the labels of a group's Ray nodes; actors select nodes by these labels."""
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
    """Return the strictest security context under which Ray runs."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _metadata(deployment: Deployment, run: str, role: str) -> Table:
    """Return metadata with our own labels: KubeRay's labels do not name the run of a pod."""
    pods = deployment.pods
    own = {RUN_LABEL: run, ROLE_LABEL: role}
    annotations = {"annotations": dict(pods.annotations)} if pods.annotations else {}
    return {"labels": dict(pods.labels) | own, **annotations}


def _container(
    name: str, deployment: Deployment, variables: Mapping[str, str] | None = None
) -> Table:
    return {
        "name": name,
        "image": deployment.image.name,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": container_security(),
        **_environment(deployment.pods, variables or {}),
    }


def _environment(pods: PodsSection, variables: Mapping[str, str]) -> Table:
    """Return the variables of a container; the deployment file overrides those that we set."""
    found: Table = {}
    if every := dict(variables) | pods.environment:
        found["env"] = [{"name": key, "value": value} for key, value in sorted(every.items())]
    if pods.environment_secrets:
        found["envFrom"] = [{"secretRef": {"name": name}} for name in pods.environment_secrets]
    return found


def _ray_pod(deployment: Deployment, container: Table, node_selector: Mapping[str, str]) -> Table:
    """Return a pod of the Ray cluster with its storage, its identity and its node selector."""
    claim = {"claimName": deployment.storage.claim}
    spec = _pod(deployment, container)
    spec["volumes"] = [{"name": "storage", "persistentVolumeClaim": claim}]
    if account := deployment.security.service_account:
        spec["serviceAccountName"] = account
    if node_selector:
        spec["nodeSelector"] = dict(node_selector)
    return spec


def _pod(deployment: Deployment, container: Table) -> Table:
    pods = deployment.pods
    spec: Table = {
        "securityContext": _pod_security(deployment.security),
        "terminationGracePeriodSeconds": pods.grace_seconds,
        "containers": [container],
    }
    if secrets := deployment.image.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in secrets]
    if pods.priority_class is not None:
        spec["priorityClassName"] = pods.priority_class
    return spec


def _pod_security(security: SecuritySection) -> Table:
    return {
        "runAsNonRoot": True,
        "runAsUser": security.user,
        "fsGroup": security.user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _tolerations(group: Group, deployment: Deployment) -> list[Table]:
    workers = deployment.workers
    of_gpus = [Toleration(key=workers.gpu_resource, effect="NoSchedule")] if group.gpus else []
    return [_toleration(each) for each in (*of_gpus, *workers.tolerations)]


def _toleration(toleration: Toleration) -> Table:
    operator = "Exists" if toleration.value is None else "Equal"
    value = {} if toleration.value is None else {"value": toleration.value}
    effect = {} if toleration.effect is None else {"effect": toleration.effect}
    return {"key": toleration.key, "operator": operator, **value, **effect}


def _mount(deployment: Deployment) -> Table:
    return {"name": "storage", "mountPath": deployment.storage.mount}
