"""Objects of a run on Kubernetes, as the API server and KubeRay give them."""

from typing import Any

Table = dict[str, Any]

OURS = {"app.kubernetes.io/managed-by": "raymoe"}


def job(status: Table | None = None, **spec: Any) -> Table:
    table: Table = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "demo", "namespace": "raymoe", "labels": dict(OURS)},
        "spec": {"entrypoint": "raymoe train", **spec},
    }
    return table | ({"status": status} if status else {})


def service(status: Table | None = None, **spec: Any) -> Table:
    return job(status, **spec) | {"kind": "RayService"}


def cluster(replicas: int = 2) -> Table:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "demo-abcde", "namespace": "raymoe"},
        "spec": {"authOptions": {"mode": "token"}, "workerGroupSpecs": [{"replicas": replicas}]},
    }


def pod(
    name: str, role: str, ready: bool = True, component: str = "training", **status: Any
) -> Table:
    conditions = [{"type": "Ready", "status": str(ready)}]
    labels = {"raymoe/run": "demo", "raymoe/role": role, "app.kubernetes.io/component": component}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "raymoe", "labels": labels},
        "spec": {"nodeName": "node-1"},
        "status": {"phase": "Running" if ready else "Pending", "conditions": conditions} | status,
    }


def unscheduled(name: str, role: str, message: str) -> Table:
    condition = {"type": "PodScheduled", "status": "False", "message": message}
    return pod(name, role, ready=False, conditions=[condition])


def waiting(name: str, role: str, reason: str, message: str) -> Table:
    state = {"waiting": {"reason": reason, "message": message}}
    box = {"name": "ray-worker", "image": "a/b:1", "state": state}
    return pod(name, role, ready=False, containerStatuses=[box])


def killed(name: str, role: str, reason: str) -> Table:
    state = {"terminated": {"reason": reason, "exitCode": 137}}
    box = {"name": "ray-head", "image": "a/b:1", "lastState": state, "state": {"running": {}}}
    return pod(name, role, containerStatuses=[box])


def event(about: str, reason: str, message: str, at: str = "2026-11-30T12:00:00Z") -> Table:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{about}.{reason}.{at[-6:-4]}", "namespace": "raymoe"},
        "involvedObject": {"name": about},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "lastTimestamp": at,
    }
