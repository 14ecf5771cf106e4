"""The RayJob and the RayService of a plan, and their YAML."""

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from cluster.kuberay.deployment import Deployment
from cluster.kuberay.groups import OBJECT_STORE_BYTES, Group, driver_group, gang_groups
from cluster.kuberay.pods import (
    container_security,
    head_template,
    node_labels,
    resources,
    submitter_template,
    worker_template,
)
from cluster.kuberay.rules import check
from moe.errors import ConfigError
from moe.planning.plan.plan import Plan

SERVE_APPLICATION = "pipelines.serving.app:build"
UPGRADES = {"new-cluster": "NewCluster", "none": "None"}
"""KubeRay's names for the values of ``service.upgrade``."""

Table = dict[str, Any]


def rayjob(plan: Plan, bytes_per_rank: Iterable[int], deployment: Deployment, name: str) -> Table:
    """Return the RayJob that trains the run file on a cluster of its own."""
    job, run_file = deployment.job, deployment.pod_paths.run
    spec = {
        "entrypoint": shlex.join(["raymoe", "train", run_file, "--resume-if-saved"]),
        "submissionMode": "K8sJobMode",
        "submitterPodTemplate": submitter_template(deployment, name),
        "backoffLimit": job.retries,
        "preRunningDeadlineSeconds": job.start_seconds,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": job.keep_seconds,
        "rayClusterSpec": raycluster_spec(plan, bytes_per_rank, deployment, name),
    }
    return _checked(_object("RayJob", deployment, name, "training", spec))


def rayservice(
    plan: Plan, bytes_per_rank: Iterable[int], deployment: Deployment, name: str
) -> Table:
    """Return the RayService that answers from the model."""
    spec = {
        "serveConfigV2": _yaml([_serve_config(deployment, name)]),
        "upgradeStrategy": {"type": UPGRADES[deployment.service.upgrade]},
        "excludeHeadPodFromServeSvc": True,
        "rayClusterConfig": raycluster_spec(plan, bytes_per_rank, deployment, name),
    }
    return _checked(_object("RayService", deployment, name, "serving", spec))


def raycluster_spec(
    plan: Plan, bytes_per_rank: Iterable[int], deployment: Deployment, name: str
) -> Table:
    """Return the cluster: a head without ranks, a driver, and one group per kind of gang."""
    groups = [driver_group(deployment), *gang_groups(plan, tuple(bytes_per_rank), deployment)]
    workers = deployment.workers
    spec: Table = {
        "rayVersion": deployment.image.ray_version,
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": workers.autoscale,
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0"},
            "template": head_template(deployment, name),
        },
        "workerGroupSpecs": [_worker_group(group, deployment, name) for group in groups],
    }
    if workers.autoscale:
        spec["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": workers.idle_seconds,
            "upscalingMode": "Default",
            "resources": resources(1, 2**30),
            "securityContext": container_security(),
        }
    return spec


def dump(objects: Iterable[Mapping[str, Any]]) -> str:
    """Return the objects as YAML documents, with keys in the order of insertion."""
    return _yaml(objects, explicit_start=True)


def _worker_group(group: Group, deployment: Deployment, run: str) -> Table:
    """Return one worker group; with an autoscaler, the autoscaler chooses the group's size.

    The driver's node offers Ray no CPU: drivers ask for none, and so no rank can be scheduled
    there. An empty ``workersToDelete`` is written because Ray's autoscaler scales down by a JSON
    patch on its parent, and a strict API server refuses the patch if the parent is missing.
    """
    autoscale = deployment.workers.autoscale
    floating = autoscale and group.role == "rank"
    size = {} if autoscale else {"replicas": group.pods}
    start = {"object-store-memory": str(OBJECT_STORE_BYTES)}
    custom = {name: str(amount) for name, amount in group.resources}
    return {
        "groupName": group.name,
        **size,
        "minReplicas": 0 if floating else group.pods,
        "maxReplicas": group.pods,
        "scaleStrategy": {"workersToDelete": []},
        "labels": node_labels(group),
        **({"resources": custom} if custom else {}),
        "rayStartParams": start if group.role == "rank" else {"num-cpus": "0"},
        "template": worker_template(group, deployment, run),
    }


def _object(kind: str, deployment: Deployment, name: str, component: str, spec: Table) -> Table:
    objects = deployment.objects
    labels = {
        "app.kubernetes.io/name": "raymoe",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": "raymoe",
    }
    metadata = {
        "name": name,
        "namespace": deployment.namespace,
        "labels": labels | objects.labels,
    }
    if objects.annotations:
        metadata["annotations"] = dict(objects.annotations)
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _serve_config(deployment: Deployment, name: str) -> Table:
    paths = deployment.pod_paths
    application = {
        "name": name,
        "route_prefix": "/",
        "import_path": SERVE_APPLICATION,
        "args": {"model": paths.model, "plan": paths.plan, "name": name},
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": 8000},
        "applications": [application],
    }


def _checked(table: Table) -> Table:
    if faults := check([table]):
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise ConfigError(f"KubeRay would refuse the {table['kind']} that was asked for:\n{listed}")
    return table


class _Dumper(yaml.SafeDumper):
    """Writes multi-line text as YAML blocks, and writes no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(documents: Iterable[Mapping[str, Any]], explicit_start: bool = False) -> str:
    return yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, explicit_start=explicit_start, width=100
    )
