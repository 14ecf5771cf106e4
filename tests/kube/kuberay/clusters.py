"""What KubeRay does about a RayCluster (raycluster_controller.go): its Secret, its service, its
pods, and what it says of them.
"""

import base64
import random
import secrets
from collections.abc import Iterable
from typing import Any

from cluster.kube.kinds import POD, RAYCLUSTER, SECRET
from tests.kube.kuberay.pods import (
    CLUSTER,
    DASHBOARD_PORT,
    GCS_PORT,
    GROUP,
    SERVE_PORT,
    TOKEN,
    TYPE,
    head_pod,
    head_service,
    secret_name,
    worker_pod,
)
from tests.kube.objects import SERVICE, Objects, is_ready
from tests.kube.store import Table, now

HEAD_READY, PROVISIONED = "HeadPodReady", "RayClusterProvisioned"
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def suffix() -> str:
    """Return the end of a generated name."""
    return "".join(random.choices(_LETTERS, k=5))


def reconcile_cluster(objects: Objects, cluster: Table) -> None:
    """Do what is to be done about a cluster now."""
    if cluster["metadata"].get("deletionTimestamp"):
        return
    _secret(objects, cluster)
    _service(objects, cluster)
    pods = objects.every(POD, f"{CLUSTER}={cluster['metadata']['name']}")
    changed = _head(objects, cluster, [each for each in pods if _type(each) == "head"])
    for group in cluster["spec"]["workerGroupSpecs"]:
        own = [each for each in pods if each["metadata"]["labels"][GROUP] == group["groupName"]]
        changed |= _group(objects, cluster, group, own)
    if not changed:
        _tell(objects, cluster, pods)


def pods_of(objects: Objects, cluster: Table, type_: str) -> list[Table]:
    """Return the head, or the workers, of a cluster."""
    every = objects.every(POD, f"{CLUSTER}={cluster['metadata']['name']}")
    return [each for each in every if _type(each) == type_]


def condition(
    type_: str, status: bool, reason: str, message: str, before: Iterable[Table]
) -> Table:
    """Return a condition; its time is that of the last change of its status."""
    old = next((each for each in before if each["type"] == type_), {})
    same = old.get("status") == str(status)
    return {
        "type": type_,
        "status": str(status),
        "reason": reason,
        "message": message,
        "lastTransitionTime": old["lastTransitionTime"] if same else now(),
    }


def is_true(conditions: Iterable[Table], type_: str) -> bool:
    """Return whether a condition holds."""
    return any(each["type"] == type_ and each["status"] == "True" for each in conditions)


def _head(objects: Objects, cluster: Table, heads: list[Table]) -> bool:
    if not heads:
        objects.create(POD, head_pod(cluster, suffix()), cluster)
        return True
    return _without_ended(objects, heads)


def _group(objects: Objects, cluster: Table, group: Table, pods: list[Table]) -> bool:
    """Bring a group to its size; with an autoscaler, only that says which pods go."""
    if _without_ended(objects, pods):
        return True
    told = set(group.get("scaleStrategy", {}).get("workersToDelete") or ())
    going = [each for each in pods if each["metadata"]["name"] in told]
    for pod in going:
        objects.delete(POD, pod["metadata"]["name"])
    left = [each for each in pods if each not in going]
    lacking = _wished(group) - len(left)
    taken = {each["metadata"]["labels"]["ray.io/worker-group-replica-index"] for each in left}
    free = (number for number in range(1000) if str(number) not in taken)
    for _ in range(lacking):
        objects.create(POD, worker_pod(cluster, group, suffix(), next(free)), cluster)
    if lacking < 0 and not cluster["spec"].get("enableInTreeAutoscaling"):
        for pod in left[:-lacking]:
            objects.delete(POD, pod["metadata"]["name"])
    return bool(going) or lacking > 0


def _without_ended(objects: Objects, pods: list[Table]) -> bool:
    """Delete the pods that have ended, and will not start again."""
    ended = [
        each for each in pods if each.get("status", {}).get("phase") in ("Failed", "Succeeded")
    ]
    for pod in ended:
        objects.delete(POD, pod["metadata"]["name"])
    return bool(ended)


def _wished(group: Table) -> int:
    least, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
    return int(min(max(group.get("replicas", 0), least), most))


def _secret(objects: Objects, cluster: Table) -> None:
    options = cluster["spec"].get("authOptions") or {}
    name = secret_name(cluster)
    if options.get("mode") != "token" or options.get("secretName") or objects.get(SECRET, name):
        return
    token = base64.b64encode(secrets.token_urlsafe(24).encode()).decode()
    metadata = {"name": name, "labels": {CLUSTER: cluster["metadata"]["name"]}}
    objects.create(SECRET, {"metadata": metadata, "data": {TOKEN: token}}, cluster)


def _service(objects: Objects, cluster: Table) -> None:
    """Make the service of the head: without an address of its own, so its name is the head's."""
    name = head_service(cluster)
    if objects.get(SERVICE, name):
        return
    labels = {CLUSTER: cluster["metadata"]["name"], TYPE: "head"}
    ports = {"gcs-server": GCS_PORT, "dashboard": DASHBOARD_PORT, "serve": SERVE_PORT}
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": labels,
        "ports": [{"name": key, "port": port} for key, port in ports.items()],
    }
    objects.create(SERVICE, {"metadata": {"name": name, "labels": labels}, "spec": spec}, cluster)


def _tell(objects: Objects, cluster: Table, pods: list[Table]) -> None:
    """Write how the cluster is."""
    status, groups = dict(cluster.get("status") or {}), cluster["spec"]["workerGroupSpecs"]
    before = status.get("conditions", ())
    workers = [each for each in pods if _type(each) == "worker"]
    running = [each for each in workers if each.get("status", {}).get("phase") == "Running"]
    wished = sum(map(_wished, groups))
    every = bool(pods) and all(map(is_ready, pods))
    told: Table = {
        "observedGeneration": cluster["metadata"]["generation"],
        "desiredWorkerReplicas": wished,
        "minWorkerReplicas": sum(each.get("minReplicas", 0) for each in groups),
        "maxWorkerReplicas": sum(each.get("maxReplicas", 0) for each in groups),
        "availableWorkerReplicas": len(running),
        "readyWorkerReplicas": sum(map(is_ready, workers)),
        "conditions": list(_conditions(pods, every, before)),
        **_head_info(cluster, pods),
    }
    if every and len(pods) == wished + 1 and status.get("state") != "ready":
        times = status.get("stateTransitionTimes", {}) | {"ready": now()}
        told |= {"state": "ready", "stateTransitionTimes": times}
    if any(status.get(key) != value for key, value in told.items()):
        told["lastUpdateTime"] = now()
        objects.status(RAYCLUSTER, cluster["metadata"]["name"], told)


def _conditions(pods: list[Table], every: bool, before: Any) -> Iterable[Table]:
    head = next((each for each in pods if _type(each) == "head"), {})
    up = is_ready(head)
    reason = "HeadPodRunningAndReady" if up else "ContainersNotReady"
    yield condition(HEAD_READY, up, reason, "", before)
    if every or is_true(before, PROVISIONED):
        words = "All Ray Pods are ready for the first time"
        yield condition(PROVISIONED, True, "AllPodRunningAndReadyFirstTime", words, before)
    else:
        words = "RayCluster Pods are being provisioned for first time"
        yield condition(PROVISIONED, False, "RayClusterPodsProvisioning", words, before)


def _head_info(cluster: Table, pods: list[Table]) -> Table:
    head = next((each for each in pods if _type(each) == "head"), None)
    if head is None:
        return {}
    address = head.get("status", {}).get("podIP", "")
    found = {"podName": head["metadata"]["name"], "podIP": address, "serviceIP": address}
    return {"head": found | {"serviceName": head_service(cluster)}}


def _type(pod: Table) -> str:
    return str(pod["metadata"]["labels"][TYPE])
