"""The objects of a plan: a RayJob or a RayService, and the ConfigMap with the files it reads."""

import hashlib
import json
import shlex
from collections.abc import Mapping
from typing import Any

from cluster.kuberay.clusters import raycluster_spec
from cluster.kuberay.deployment import Deployment, ServiceSection
from cluster.kuberay.pods import Pods
from cluster.kuberay.readiness import SERVE_PORT
from cluster.kuberay.rules import check
from cluster.kuberay.scheduling import (
    COMPONENT_LABEL,
    DRIVER_LABELS,
    ROLE_LABEL,
    RUN_LABEL,
    SERVING,
    TRAINING,
    queue_labels,
)
from cluster.kuberay.work import FILES, PLAN_FILE, RUN_FILE, Work
from cluster.kuberay.writing import as_yaml
from moe.errors import ConfigError

SERVE_APPLICATION = "pipelines.serving.app:build"
INITIALIZING = "ray.io/initializing-timeout"
WAIT_SECONDS = 1200.0
"""Seconds that a server waits for its ranks' pods: KubeRay starts it when only the head is ready.
"""
UPGRADES = {
    "new-cluster": "NewCluster",
    "incremental": "NewClusterWithIncrementalUpgrade",
    "none": "None",
}
"""KubeRay's names for the values of ``service.upgrade``."""

Table = dict[str, Any]


def rayjob(work: Work, deployment: Deployment, name: str) -> Table:
    """Return the RayJob that trains the run file among the files, on a cluster of its own."""
    job, pods = deployment.job, _pods(work, deployment, name)
    run_file = f"{FILES}/{RUN_FILE}"
    spec = {
        "entrypoint": shlex.join(["raymoe", "train", run_file, "--resume-if-saved"]),
        "submissionMode": "K8sJobMode",
        "submitterPodTemplate": pods.submitter(),
        "backoffLimit": job.retries,
        "preRunningDeadlineSeconds": job.start_seconds,
        **({} if job.deadline_seconds is None else {"activeDeadlineSeconds": job.deadline_seconds}),
        **_ending(deployment),
        "rayClusterSpec": raycluster_spec(work, pods),
    }
    return _checked(_object("RayJob", deployment, name, TRAINING, spec))


def rayservice(
    work: Work, deployment: Deployment, name: str, arguments: Mapping[str, Any]
) -> Table:
    """Return the RayService that answers with these arguments of the server."""
    spec = {
        "serveConfigV2": as_yaml([_serve_config(name, arguments)]),
        "upgradeStrategy": _upgrade(deployment.service),
        "rayClusterDeletionDelaySeconds": deployment.service.delete_seconds,
        "excludeHeadPodFromServeSvc": True,
        "rayClusterConfig": raycluster_spec(work, _pods(work, deployment, name)),
    }
    return _checked(_object("RayService", deployment, name, SERVING, spec))


def config_map(work: Work, deployment: Deployment, name: str, component: str) -> Table:
    """Return the ConfigMap from which pods read the files of the work."""
    metadata = _metadata(deployment, files_name(name, component), name, component)
    table = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    return table | {"data": dict(work.files)}


def head_guard(deployment: Deployment, name: str, component: str) -> Table:
    """Return the PodDisruptionBudget by which no drain of a node evicts the head of a cluster.

    ``minAvailable`` is a number: Kubernetes cannot count the pods of a RayCluster by itself. Pods
    of ranks have no budget: an eviction is their notice to leave.
    """
    metadata = _metadata(deployment, f"{name}-{component}-head", name, component)
    labels = {RUN_LABEL: name, ROLE_LABEL: "head", COMPONENT_LABEL: component}
    spec = {"minAvailable": 1, "selector": {"matchLabels": labels}}
    table = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata}
    return table | {"spec": spec}


def files_name(name: str, component: str) -> str:
    """Return the name of the ConfigMap: a run may be trained and served at once."""
    return f"{name}-{component}"


def arguments_of(deployment: Deployment, model: str, name: str) -> Table:
    """Return the arguments of the server; the plan is among the files."""
    model = deployment.storage.inside(deployment.service.model or model)
    own = {"model": model, "plan": f"{FILES}/{PLAN_FILE}", "name": name}
    place = {"driver_labels": dict(DRIVER_LABELS), "wait_seconds": WAIT_SECONDS}
    return own | place | dict(deployment.service.arguments)


def _pods(work: Work, deployment: Deployment, name: str) -> Pods:
    component = TRAINING if RUN_FILE in work.files else SERVING
    content = json.dumps(sorted(work.files.items())).encode()
    digest = hashlib.sha256(content).hexdigest()[:12]
    return Pods(deployment, name, component, files_name(name, component), digest)


def _ending(deployment: Deployment) -> Table:
    """Return what KubeRay does after the end: one time for all ends, or rules for each."""
    job = deployment.job
    if not job.has_rules:
        return {"shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": job.keep_seconds}
    failed = job.keep_seconds if job.keep_failed_seconds is None else job.keep_failed_seconds
    rules = []
    for status, seconds in (("SUCCEEDED", job.keep_seconds), ("FAILED", failed)):
        rules.append(_rule(status, seconds, "DeleteCluster"))
        if job.forget_seconds is not None:
            rules.append(_rule(status, job.forget_seconds, "DeleteSelf"))
    return {"deletionStrategy": {"deletionRules": rules}}


def _rule(status: str, seconds: int, policy: str) -> Table:
    return {"policy": policy, "condition": {"jobStatus": status, "ttlSeconds": seconds}}


def _upgrade(service: ServiceSection) -> Table:
    table: Table = {"type": UPGRADES[service.upgrade]}
    if service.upgrade == "incremental":
        table["clusterUpgradeOptions"] = {
            "gatewayClassName": service.gateway_class,
            "stepSizePercent": service.step_percent,
            "intervalSeconds": service.step_seconds,
            "maxSurgePercent": service.surge_percent,
        }
    return table


def _object(kind: str, deployment: Deployment, name: str, component: str, spec: Table) -> Table:
    metadata = _metadata(deployment, name, name, component)
    metadata["labels"] = queue_labels(deployment, name) | metadata["labels"]
    start = deployment.service.start_seconds
    waits = {INITIALIZING: f"{start}s"} if kind == "RayService" and start is not None else {}
    if annotations := waits | deployment.objects.annotations:
        metadata["annotations"] = annotations
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _metadata(deployment: Deployment, name: str, run: str, component: str) -> Table:
    labels = {
        "app.kubernetes.io/name": "raymoe",
        "app.kubernetes.io/instance": run,
        COMPONENT_LABEL: component,
        "app.kubernetes.io/managed-by": "raymoe",
        RUN_LABEL: run,
    }
    return {
        "name": name,
        "namespace": deployment.namespace,
        "labels": labels | deployment.objects.labels,
    }


def _serve_config(name: str, arguments: Mapping[str, Any]) -> Table:
    application = {
        "name": name,
        "route_prefix": "/",
        "import_path": SERVE_APPLICATION,
        "args": dict(arguments),
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": SERVE_PORT},
        "applications": [application],
    }


def _checked(table: Table) -> Table:
    if faults := check([table]):
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise ConfigError(f"KubeRay would refuse the {table['kind']} that was asked for:\n{listed}")
    return table
