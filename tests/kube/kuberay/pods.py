"""Pods of a RayCluster as KubeRay 1.7 makes them from its templates (ray-operator/controllers/ray/
common/pod.go): labels, variables, the command of ``ray start``, probes, the autoscaler beside the
head. What raymoe does not use is left out: TLS, Redis, several hosts a replica, TPUs.
"""

import copy
import json
from collections.abc import Mapping
from math import ceil

from kubernetes.utils.quantity import parse_quantity

from tests.kube.store import Table

CLUSTER, TYPE, GROUP = "ray.io/cluster", "ray.io/node-type", "ray.io/group"
SERVE = "ray.io/serve"
MADE_FOR, MADE_BY = "ray.io/originated-from-cr-name", "ray.io/originated-from-crd"
GCS_PORT, DASHBOARD_PORT, AGENT_PORT, SERVE_PORT = 6379, 8265, 52365, 8000
TOKEN = "auth_token"

_BASH = ["/bin/bash", "-c", "--"]
_WITH_VALUE = ("log-color", "include-dashboard", "include-log-monitor")


def head_service(cluster: Table) -> str:
    """Return the name of the service that finds the head."""
    return f"{cluster['metadata']['name']}-head-svc"


def head_address(cluster: Table) -> str:
    """Return how pods call the head."""
    return f"{head_service(cluster)}.{cluster['metadata']['namespace']}.svc.cluster.local"


def secret_name(cluster: Table) -> str:
    """Return the Secret with the token of a cluster."""
    options = cluster["spec"].get("authOptions") or {}
    return str(options.get("secretName") or cluster["metadata"]["name"])


def token_variables(cluster: Table) -> list[Table]:
    """Return the variables by which a process has the token of Ray's API."""
    ref = {"secretKeyRef": {"name": secret_name(cluster), "key": TOKEN}}
    return [
        {"name": "RAY_AUTH_MODE", "value": "token"},
        {"name": "RAY_AUTH_TOKEN", "valueFrom": ref},
    ]


def head_pod(cluster: Table, suffix: str) -> Table:
    """Return the pod of the head; with an autoscaler, it has that beside it."""
    spec = cluster["spec"]
    pod = copy.deepcopy(spec["headGroupSpec"]["template"])
    params = dict(spec["headGroupSpec"]["rayStartParams"]) | {"dashboard-host": "0.0.0.0"}
    scales = spec.get("enableInTreeAutoscaling")
    box = pod["spec"]["containers"][0]
    if scales:
        params["no-monitor"] = "true"
        box.setdefault("env", []).append({"name": "RAY_enable_autoscaler_v2", "value": "true"})
        pod["spec"]["restartPolicy"] = "Never"
    _common(cluster, pod, "head", "headgroup", params)
    pod["metadata"]["name"] = f"{cluster['metadata']['name'][:50]}-head-{suffix}"
    if scales:
        pod["spec"]["containers"].append(_autoscaler(cluster, box["image"]))
        pod["spec"]["volumes"] += [{"name": "ray-logs", "emptyDir": {}}]
        for each in pod["spec"]["containers"]:
            _mount(each, "ray-logs", "/tmp/ray")
    return dict(pod)


def worker_pod(cluster: Table, group: Table, suffix: str, index: int) -> Table:
    """Return one pod of a worker group."""
    pod, name = copy.deepcopy(group["template"]), group["groupName"]
    address = f"{head_address(cluster)}:{GCS_PORT}"
    params = dict(group["rayStartParams"]) | {"address": address}
    custom = {key: float(value) for key, value in group.get("resources", {}).items()}
    if custom:
        params["resources"] = f"'{json.dumps(custom)}'"
    if labels := group.get("labels"):
        params["labels"] = ",".join(f"{key}={labels[key]}" for key in sorted(labels))
    pod.setdefault("metadata", {}).setdefault("labels", {}).update(labels or {})
    if cluster["spec"].get("enableInTreeAutoscaling"):
        pod["spec"]["restartPolicy"] = "Never"
    box = pod["spec"]["containers"][0]
    waits = {key: copy.deepcopy(box[key]) for key in ("env", "volumeMounts") if key in box}
    waits |= {"name": "wait-gcs-ready", "image": box["image"], "command": _BASH}
    waits["env"] = [*waits.get("env", []), *token_variables(cluster)]
    waits["args"] = [_WAIT.format(address=address)]
    pod["spec"].setdefault("initContainers", []).append(waits)
    _common(cluster, pod, "worker", name, params)
    prefix = f"{cluster['metadata']['name']}-{name}"[:50]
    pod["metadata"]["name"] = f"{prefix}-worker-{suffix}"
    pod["metadata"]["labels"]["ray.io/worker-group-replica-index"] = str(index)
    return dict(pod)


_WAIT = """
while true; do
  if ray health-check --address {address} > /dev/null 2>&1; then echo "GCS is ready."; break; fi
  echo "Waiting for GCS to be ready."
  sleep 5
done
"""


def _common(cluster: Table, pod: Table, type_: str, group: str, params: dict[str, str]) -> None:
    """Add what head and workers have alike."""
    box, metadata = pod["spec"]["containers"][0], pod.setdefault("metadata", {})
    named = {CLUSTER: cluster["metadata"]["name"], TYPE: type_, GROUP: group}
    metadata["labels"] = {"ray.io/is-ray-node": "yes"} | metadata.get("labels", {}) | named
    serves = cluster["metadata"].get("labels", {}).get(MADE_BY) == "RayService"
    if serves:
        metadata["labels"][SERVE] = str(type_ == "worker").lower()
    pod["spec"].setdefault("volumes", [])
    if not any(each["mountPath"] == "/dev/shm" for each in box.get("volumeMounts", ())):
        size = box["resources"]["limits"]["memory"]
        memory = {"medium": "Memory", "sizeLimit": size}
        pod["spec"]["volumes"].append({"name": "shared-mem", "emptyDir": memory})
        _mount(box, "shared-mem", "/dev/shm")
    command = _start(type_, params, box["resources"]["limits"])
    box["command"] = _BASH
    box["args"] = [f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; {command}"]
    box["env"] = [*box.get("env", []), *token_variables(cluster)]
    box["env"] += _variables(cluster, type_, command, serves)
    box.setdefault("readinessProbe", _readiness(type_, serves))


def _start(type_: str, params: dict[str, str], limits: Mapping[str, str]) -> str:
    """Return the command of ``ray start``."""
    own = {"metrics-export-port": "8080", "dashboard-agent-listen-port": str(AGENT_PORT)} | params
    own["block"] = "true"
    own.setdefault("num-cpus", str(ceil(parse_quantity(limits["cpu"]))))
    own.setdefault("memory", str(int(parse_quantity(limits["memory"]))))
    for name, amount in limits.items():
        if name.endswith("gpu"):
            own.setdefault("num-gpus", amount)
    flags = []
    for key in sorted(own):
        switch = own[key].lower() in ("true", "false") and key not in _WITH_VALUE
        if not switch:
            flags.append(f"--{key}={own[key]}")
        elif own[key].lower() == "true":
            flags.append(f"--{key}")
    return " ".join(["ray", "start", *(["--head"] if type_ == "head" else []), *flags])


def _variables(cluster: Table, type_: str, command: str, serves: bool) -> list[Table]:
    host = "127.0.0.1" if type_ == "head" else head_address(cluster)
    plain = {
        "KUBERAY_GEN_RAY_START_CMD": command,
        "RAY_PORT": str(GCS_PORT),
        "RAY_ADDRESS": f"{host}:{GCS_PORT}",
        "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",
        "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE": "1",
    }
    if type_ == "worker":
        plain |= {"FQ_RAY_IP": host, "RAY_IP": head_service(cluster)}
    if serves:
        plain |= {
            "RAY_timeout_ms_task_wait_for_death_info": "0",
            "RAY_gcs_server_request_timeout_seconds": "5",
            "RAY_SERVE_KV_TIMEOUT_S": "5",
        }
    return [
        *_fields(RAY_CLUSTER_NAME=f"metadata.labels['{CLUSTER}']"),
        *_fields(RAY_CLUSTER_NAMESPACE="metadata.namespace"),
        *_fields(RAY_CLOUD_INSTANCE_ID="metadata.name"),
        *_fields(RAY_NODE_TYPE_NAME=f"metadata.labels['{GROUP}']"),
        *({"name": name, "value": value} for name, value in plain.items()),
    ]


def _fields(**paths: str) -> list[Table]:
    return [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
        for name, path in paths.items()
    ]


def _autoscaler(cluster: Table, image: str) -> Table:
    command = (
        "ray kuberay-autoscaler --cluster-name $(RAY_CLUSTER_NAME) "
        "--cluster-namespace $(RAY_CLUSTER_NAMESPACE)"
    )
    options = cluster["spec"].get("autoscalerOptions", {})
    return {
        "name": "autoscaler",
        "image": image,
        "command": _BASH,
        "args": [command],
        "env": [
            *_fields(RAY_CLUSTER_NAME=f"metadata.labels['{CLUSTER}']"),
            *_fields(RAY_CLUSTER_NAMESPACE="metadata.namespace"),
            *_fields(RAY_HEAD_POD_NAME="metadata.name"),
            {"name": "KUBERAY_CRD_VER", "value": "v1"},
            *token_variables(cluster),
            *options.get("env", []),
        ],
    }


def _readiness(type_: str, serves: bool) -> Table:
    """Return the probe for Ray 2.53 and newer; a worker that serves needs its proxy too."""
    probe = {"initialDelaySeconds": 10, "periodSeconds": 5, "failureThreshold": 10}
    probe["timeoutSeconds"] = 5 if type_ == "head" else 2
    if not (serves and type_ == "worker"):
        return probe | {"httpGet": {"path": "/api/healthz", "port": AGENT_PORT}}
    at = ((2, AGENT_PORT, "api/local_raylet_healthz"), (10, SERVE_PORT, "-/healthz"))
    asked = [
        f"wget --tries 1 -T {seconds} -q -O- http://localhost:{port}/{path} | grep success"
        for seconds, port, path in at
    ]
    words = {"command": ["bash", "-c", " && ".join(asked)]}
    return probe | {"failureThreshold": 1, "exec": words}


def _mount(box: Table, name: str, path: str) -> None:
    box.setdefault("volumeMounts", []).append({"name": name, "mountPath": path})
