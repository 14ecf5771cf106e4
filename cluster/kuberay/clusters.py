"""The Ray cluster of an object: a head, a driver, and the groups of ranks."""

from typing import Any

from cluster.kuberay.amounts import resources
from cluster.kuberay.deployment import Deployment, MonitoringSection, RecoverySection
from cluster.kuberay.groups import Group, driver_group, gang_groups
from cluster.kuberay.pods import Pods, node_labels
from cluster.kuberay.security import container_security
from cluster.kuberay.sizes import OBJECT_STORE_BYTES
from cluster.kuberay.work import Work

Table = dict[str, Any]


def raycluster_spec(work: Work, pods: Pods) -> Table:
    """Return the cluster: a head without ranks, a driver, and the groups of ranks."""
    deployment = pods.deployment
    groups = [driver_group(work, deployment), *gang_groups(work, deployment)]
    secret = deployment.security.token_secret
    spec: Table = {
        "rayVersion": deployment.image.ray_version,
        "authOptions": {"mode": "token", **({"secretName": secret} if secret else {})},
        "enableInTreeAutoscaling": deployment.workers.autoscale,
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": pods.head()},
        "workerGroupSpecs": [_worker_group(group, pods) for group in groups],
    }
    return (
        spec | _autoscaler(deployment) | _kept(deployment.recovery) | _seen(deployment.monitoring)
    )


def _worker_group(group: Group, pods: Pods) -> Table:
    """Return one worker group; with an autoscaler, the autoscaler chooses the group's size.

    The driver's node offers Ray no CPU: drivers ask for none, and so no rank can be scheduled
    there. An empty ``workersToDelete`` is written because Ray's autoscaler scales down by a JSON
    patch on its parent, and a strict API server refuses the patch if the parent is missing.
    """
    autoscale = pods.deployment.workers.autoscale
    floating = autoscale and group.role == "rank"
    size = {} if autoscale else {"replicas": group.pods}
    start = {"object-store-memory": str(OBJECT_STORE_BYTES)}
    start |= {} if group.role == "rank" else {"num-cpus": "0"}
    custom = {name: str(amount) for name, amount in group.resources}
    return {
        "groupName": group.name,
        **size,
        "minReplicas": 0 if floating else group.pods,
        "maxReplicas": group.pods,
        "scaleStrategy": {"workersToDelete": []},
        "labels": node_labels(group),
        **({"resources": custom} if custom else {}),
        "rayStartParams": start,
        "template": pods.worker(group),
    }


def _autoscaler(deployment: Deployment) -> Table:
    workers = deployment.workers
    if not workers.autoscale:
        return {}
    return {
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": workers.idle_seconds,
            "upscalingMode": "Default",
            "resources": resources(1, 2**30, 1),
            "securityContext": container_security(deployment.security),
        }
    }


def _kept(recovery: RecoverySection) -> Table:
    """Return where the state of the head is kept."""
    if recovery.backend == "none":
        return {}
    table: Table = {"backend": recovery.backend}
    if recovery.backend == "redis":
        table["redisAddress"] = recovery.redis_address
        if recovery.redis_secret is not None:
            key = {"name": recovery.redis_secret, "key": recovery.redis_secret_key}
            table["redisPassword"] = {"valueFrom": {"secretKeyRef": key}}
    else:
        table["storage"] = {"size": f"{recovery.rocksdb_gib}Gi"}
        if recovery.rocksdb_storage_class is not None:
            table["storage"]["storageClassName"] = recovery.rocksdb_storage_class
    return {"gcsFaultToleranceOptions": table}


def _seen(monitoring: MonitoringSection) -> Table:
    """Return the collector of the history server."""
    if monitoring.history_image is None:
        return {}
    table: Table = {"image": monitoring.history_image, "resources": resources(1, 2**30, 1)}
    given = sorted(monitoring.history_environment.items())
    environment: list[Table] = [{"name": name, "value": value} for name, value in given]
    if (secret := monitoring.history_secret) is not None:
        for key in monitoring.history_secret_keys:
            source = {"secretKeyRef": {"name": secret, "key": key}}
            environment.append({"name": key, "valueFrom": source})
    if environment:
        table["env"] = environment
    return {"historyServerOptions": {"collectorOptions": table}}
