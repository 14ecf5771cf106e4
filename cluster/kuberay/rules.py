"""Rules that KubeRay checks in its operator and not in its schemas, and a few rules of our own.

A violation would otherwise show only as an event on an object that never starts. Each rule yields
``rule: found; what to change``; ``check`` puts the object before it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import yaml

from cluster.kuberay.names import MAX_NAME, is_name, is_namespace
from moe.planning.devices.labels import is_label_key, is_label_value

Table = Mapping[str, Any]

CLUSTER_KEYS: Mapping[str, str] = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
TOKEN_VERSION = (2, 52)
PARAMETERS_OF_RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")


def check(objects: Iterable[Table]) -> list[str]:
    """Return every violation in the objects; empty if KubeRay would accept all of them."""
    return [
        f"{table['kind']}/{table['metadata']['name']}: {fault}"
        for table in objects
        for fault in chain(_names(table), _spec(table["kind"], table["spec"]))
    ]


def _spec(kind: str, spec: Table) -> Iterator[str]:
    if kind == "RayJob":
        yield from _job(spec)
    if kind == "RayService":
        yield from _service(spec)
    cluster = spec.get(CLUSTER_KEYS[kind]) if kind in CLUSTER_KEYS else spec
    if cluster is None:
        return
    if kind in CLUSTER_KEYS and "upgradeStrategy" in cluster:
        yield "cluster-upgrade: upgradeStrategy belongs to a RayCluster of its own; remove it"
    for rule in CLUSTER_RULES:
        yield from rule(cluster)


def _names(table: Table) -> Iterator[str]:
    kind, metadata = table["kind"], table["metadata"]
    name, namespace = metadata["name"], metadata.get("namespace", "default")
    if kind not in MAX_NAME:
        yield f"kind: {kind} is unknown; use {', '.join(MAX_NAME)}"
    elif not is_name(name, MAX_NAME[kind]):
        yield (
            f"name: {name!r} has {len(name)} characters; give at most {MAX_NAME[kind]} lower-case "
            "letters, digits and dashes, the first a letter and the last no dash"
        )
    if not is_namespace(namespace):
        yield (
            f"namespace: {namespace!r} is not a valid name; give lower-case letters, "
            "digits and dashes"
        )
    yield from _labels("metadata", metadata.get("labels", {}))


def _job(spec: Table) -> Iterator[str]:
    if "rayClusterSpec" not in spec and "clusterSelector" not in spec:
        yield "job-cluster: neither rayClusterSpec nor clusterSelector; give one"
    ttl = spec.get("ttlSecondsAfterFinished", 0)
    if ttl < 0 or (ttl and not spec.get("shutdownAfterJobFinishes")):
        yield f"job-ttl: {ttl} s; give 0 or more, with shutdownAfterJobFinishes"
    if spec.get("backoffLimit", 0) < 0:
        yield f"job-retries: backoffLimit {spec['backoffLimit']}; give 0 or more"
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(key, 1) <= 0:
            yield f"job-deadline: {key} {spec[key]}; give more than 0"
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        yield "job-suspend: suspend without shutdownAfterJobFinishes; set both"
    if spec.get("submissionMode") == "SidecarMode" and "submitterPodTemplate" in spec:
        yield "job-submitter: SidecarMode takes no submitterPodTemplate; remove one of them"
    yield from _parses("runtimeEnvYAML", spec)


def _service(spec: Table) -> Iterator[str]:
    cluster = spec.get("rayClusterConfig", {})
    head_service = cluster.get("headGroupSpec", {}).get("headService", {})
    if head_service.get("metadata", {}).get("name"):
        yield "service-head: the head service has a name; KubeRay names it, remove the name"
    upgrade = spec.get("upgradeStrategy", {}).get("type", "NewCluster")
    if upgrade not in ("NewCluster", "NewClusterWithIncrementalUpgrade", "None"):
        yield f"service-upgrade: type {upgrade!r}; give NewCluster or None"
    if spec.get("rayClusterDeletionDelaySeconds", 0) < 0:
        yield "service-delay: rayClusterDeletionDelaySeconds is negative; give 0 or more"
    yield from _parses("serveConfigV2", spec)


def _groups(spec: Table) -> Iterator[str]:
    counts = Counter(group["groupName"] for group in spec["workerGroupSpecs"])
    for name, count in counts.items():
        if count > 1:
            yield f"group-unique: {count} groups are called {name}; give each its own name"
        if not is_name(name):
            yield f"group-name: {name!r}; give lower-case letters, digits and dashes"
    for where, group in _all_groups(spec):
        yield from _group(where, group)


def _group(where: str, group: Table) -> Iterator[str]:
    parameters = group.get("rayStartParams", {})
    for key, value in parameters.items():
        if not isinstance(value, str):
            yield f"start-parameter: {where} has {key}: {value!r}; write it as text, in quotes"
    if "labels" in parameters:
        yield f"start-labels: {where} has rayStartParams.labels; use the labels of the group"
    doubled = [key for key in PARAMETERS_OF_RESOURCES if key in parameters]
    if "resources" in group and doubled:
        yield f"start-resources: {where} gives resources and {', '.join(doubled)}; keep one form"
    yield from _labels(where, group.get("labels", {}))
    template = group["template"]
    yield from _labels(f"{where} pods", template.get("metadata", {}).get("labels", {}))
    if not template["spec"].get("containers"):
        yield f"containers: {where} has none; the first container runs Ray"
        return
    yield from _resources(where, template["spec"]["containers"][0].get("resources", {}))


def _resources(where: str, resources: Table) -> Iterator[str]:
    limits = resources.get("limits", {})
    for key in ("cpu", "memory"):
        if key not in limits:
            yield f"limits: {where} has no {key} limit, so Ray cannot tell its size; give one"
    if resources.get("requests", limits) != limits:
        yield f"requests: {where} requests other amounts than its limits; make them equal"


def _sizes(spec: Table) -> Iterator[str]:
    for group in spec["workerGroupSpecs"]:
        name, low, high = group["groupName"], group.get("minReplicas"), group.get("maxReplicas")
        if low is None or high is None:
            yield f"group-size: {name} lacks minReplicas or maxReplicas; give both"
        elif not 0 <= low <= high:
            yield f"group-size: {name} has minReplicas {low}, maxReplicas {high}; 0 <= min <= max"
        elif not low <= group.get("replicas", low) <= high:
            yield f"group-size: {name} has replicas {group['replicas']}, not in [{low}, {high}]"
        if "workersToDelete" not in group.get("scaleStrategy", {}):
            yield f"scale-strategy: {name} has none; write scaleStrategy: {{workersToDelete: []}}"


def _autoscaler(spec: Table) -> Iterator[str]:
    options = spec.get("autoscalerOptions", {})
    if options and not spec.get("enableInTreeAutoscaling"):
        yield "autoscaler: options without enableInTreeAutoscaling have no effect; set it"
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield "autoscaler-idle: idleTimeoutSeconds is negative; give 0 or more"
    for where, group in _all_groups(spec):
        pod = group["template"]["spec"]
        if options.get("version") == "v2" and pod.get("restartPolicy", "Never") != "Never":
            yield f"autoscaler-restart: {where} has restartPolicy {pod['restartPolicy']}; use Never"
        names = {entry["name"] for box in pod["containers"] for entry in box.get("env", ())}
        if "RAY_enable_autoscaler_v2" in names:
            yield f"autoscaler-version: {where} sets RAY_enable_autoscaler_v2; remove it"


def _authentication(spec: Table) -> Iterator[str]:
    mode, text = spec.get("authOptions", {}).get("mode"), str(spec.get("rayVersion", ""))
    if mode is None:
        yield "auth: authOptions.mode is not given, and its default depends on Ray; give token"
    release = text.split(".")[:2]
    if not all(part.isdecimal() for part in release) or len(release) < 2:
        yield f"ray-version: rayVersion {text!r}; give the version of Ray in the image, like 2.60.0"
    elif mode == "token" and tuple(map(int, release)) < TOKEN_VERSION:
        yield f"auth: token mode needs Ray 2.52, rayVersion is {text}; take a newer image"


def _all_groups(spec: Table) -> Iterator[tuple[str, Table]]:
    yield "head", spec["headGroupSpec"]
    for group in spec["workerGroupSpecs"]:
        yield f"group {group['groupName']}", group


def _labels(where: str, labels: Mapping[str, str]) -> Iterator[str]:
    for key, value in labels.items():
        if not is_label_key(key) or not is_label_value(value):
            yield f"label: {where} has {key}: {value!r}; at most 63 letters, digits, '-', '_', '.'"


def _parses(key: str, spec: Table) -> Iterator[str]:
    try:
        table = yaml.safe_load(spec.get(key, "{}"))
    except yaml.YAMLError as error:
        yield f"yaml: {key} does not parse: {error}; correct it"
        return
    if not isinstance(table, dict):
        yield f"yaml: {key} is not a table; write keys and values"


CLUSTER_RULES = (_groups, _sizes, _autoscaler, _authentication)
