"""Each key of a deployment file, a value other than its default, and where that value shows."""

from typing import Any, NamedTuple

from cluster.kuberay.pods import NOTICE


class Named(NamedTuple):
    """A step of a path: the entry of a list that has a name."""

    name: str


HEAD = ("headGroupSpec", "template", "spec")
DRIVER = ("workerGroupSpecs", 0, "template", "spec")
RANK = ("workerGroupSpecs", 1, "template", "spec")
BOX = ("containers", 0)
PODS = (HEAD, DRIVER, RANK)
EVERY_POD = (*PODS, ("submitterPodTemplate", "spec"))
LIMITS = (*BOX, "resources", "limits")
SECRET = {"secretRef": {"name": "bucket"}}
FT = ("gcsFaultToleranceOptions",)
STEPS = ("upgradeStrategy", "clusterUpgradeOptions")
COLLECTOR = ("historyServerOptions", "collectorOptions")

Effect = tuple[tuple[Any, ...], Any]


def env(pod: tuple[Any, ...], name: str, value: str) -> Effect:
    return (*pod, *BOX, "env", Named(name)), {"name": name, "value": value}


def everywhere(pods: tuple[Any, ...], path: tuple[Any, ...], value: Any) -> tuple[Effect, ...]:
    return tuple(((*pod, *path), value) for pod in pods)


def _volume(source: dict[str, Any], **mounted: Any) -> tuple[Effect, ...]:
    mount = {"name": "more", "mountPath": "/more", **mounted}
    return (
        *everywhere(PODS, ("volumes", Named("more")), {"name": "more", **source}),
        *everywhere(PODS, (*BOX, "volumeMounts", Named("more")), mount),
    )


def _more(**source: Any) -> list[dict[str, Any]]:
    return [{"name": "more", "mount": "/more", **source}]


BUCKET = {"csi_driver": "gcsfuse.csi.storage.gke.io", "csi_attributes": {"bucketName": "b"}}
CSI = {"driver": BUCKET["csi_driver"], "volumeAttributes": {"bucketName": "b"}}

VOLUMES: list[tuple[dict[str, Any], tuple[Effect, ...]]] = [
    ({"claim": "c"}, _volume({"persistentVolumeClaim": {"claimName": "c"}})),
    ({"secret": "s"}, _volume({"secret": {"secretName": "s"}})),
    ({"config_map": "m"}, _volume({"configMap": {"name": "m"}})),
    ({"memory_gib": 2}, _volume({"emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}})),
    ({"disk_gib": 2}, _volume({"emptyDir": {"sizeLimit": "2Gi"}})),
    (BUCKET, _volume({"csi": CSI})),
    (BUCKET | {"read_only": True}, _volume({"csi": CSI | {"readOnly": True}}, readOnly=True)),
]

EFFECTS: list[tuple[str, Any, tuple[Effect, ...]]] = [
    ("namespace", "other", ((("metadata", "namespace"), "other"),)),
    ("image.name", "a/b:1", everywhere(EVERY_POD, (*BOX, "image"), "a/b:1")),
    (
        "image.pull_secrets",
        ["registry"],
        everywhere(EVERY_POD, ("imagePullSecrets",), [{"name": "registry"}]),
    ),
    ("image.ray_version", "2.59.1", ((("rayVersion",), "2.59.1"),)),
    (
        "storage.claim",
        "other",
        everywhere(PODS, ("volumes", 0, "persistentVolumeClaim", "claimName"), "other"),
    ),
    (
        "storage.mount",
        "/mnt/all",
        everywhere(PODS, (*BOX, "volumeMounts", 0, "mountPath"), "/mnt/all"),
    ),
    ("volumes", _more(**BUCKET), VOLUMES[5][1]),
    ("head.cpus", 7, (((*HEAD, *LIMITS, "cpu"), "7"),)),
    ("head.memory_gib", 9, (((*HEAD, *LIMITS, "memory"), "9Gi"),)),
    ("head.disk_gib", 9, (((*HEAD, *LIMITS, "ephemeral-storage"), "9Gi"),)),
    ("head.node_selector", {"a": "b"}, (((*HEAD, "nodeSelector"), {"a": "b"}),)),
    (
        "head.tolerations",
        [{"key": "a"}],
        (((*HEAD, "tolerations"), [{"key": "a", "operator": "Exists"}]),),
    ),
    ("driver.cpus", 7, (((*DRIVER, *LIMITS, "cpu"), "7"),)),
    ("driver.memory_gib", 9, (((*DRIVER, *LIMITS, "memory"), "9Gi"),)),
    ("driver.disk_gib", 9, (((*DRIVER, *LIMITS, "ephemeral-storage"), "9Gi"),)),
    ("driver.node_selector", {"a": "b"}, (((*DRIVER, "nodeSelector"), {"a": "b"}),)),
    (
        "driver.tolerations",
        [{"key": "a"}],
        (((*DRIVER, "tolerations"), [{"key": "a", "operator": "Exists"}]),),
    ),
    ("workers.gpu_resource", "a.b/gpu", (((*RANK, *LIMITS, "a.b/gpu"), "2"),)),
    (
        "workers.node_selectors",
        {"A100-80G": {"a": "b"}, "4090": {}},
        (((*RANK, "nodeSelector"), {"a": "b"}),),
    ),
    (
        "workers.tolerations",
        [{"key": "spot", "value": "yes", "effect": "NoExecute"}, {"key": "old"}],
        (
            (
                (*RANK, "tolerations"),
                [
                    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                    {"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoExecute"},
                    {"key": "old", "operator": "Exists"},
                ],
            ),
        ),
    ),
    ("workers.disk_gib", 9, (((*RANK, *LIMITS, "ephemeral-storage"), "9Gi"),)),
    ("workers.devices", {"rdma/hca": 8}, (((*RANK, *LIMITS, "rdma/hca"), "8"),)),
    ("workers.autoscale", True, ((("enableInTreeAutoscaling",), True),)),
    ("workers.idle_seconds", 42, ((("autoscalerOptions", "idleTimeoutSeconds"), 42),)),
    ("objects.labels", {"a.b/c": "d"}, ((("metadata", "labels", "a.b/c"), "d"),)),
    ("objects.annotations", {"a.b/c": "d e"}, ((("metadata", "annotations"), {"a.b/c": "d e"}),)),
    (
        "pods.labels",
        {"a": "b"},
        tuple(((*pod[:-1], "metadata", "labels", "a"), "b") for pod in EVERY_POD),
    ),
    (
        "pods.annotations",
        {"a": "b c"},
        tuple(((*pod[:-1], "metadata", "annotations", "a"), "b c") for pod in EVERY_POD),
    ),
    ("pods.environment", {"A": "b"}, tuple(env(pod, "A", "b") for pod in EVERY_POD)),
    ("pods.environment_secrets", ["bucket"], everywhere(EVERY_POD, (*BOX, "envFrom"), [SECRET])),
    ("pods.priority_class", "high", everywhere(EVERY_POD, ("priorityClassName",), "high")),
    (
        "pods.grace_seconds",
        99,
        (
            *everywhere(EVERY_POD, ("terminationGracePeriodSeconds",), 99),
            *(env(pod, NOTICE, "94") for pod in (DRIVER, RANK)),
        ),
    ),
    (
        "security.user",
        1234,
        tuple(
            ((*pod, "securityContext", key), 1234)
            for pod in EVERY_POD
            for key in ("runAsUser", "fsGroup")
        ),
    ),
    ("security.service_account", "cloud", everywhere(PODS, ("serviceAccountName",), "cloud")),
    ("security.token_secret", "token", ((("authOptions", "secretName"), "token"),)),
    (
        "security.read_only_root",
        True,
        (
            *everywhere(EVERY_POD, (*BOX, "securityContext", "readOnlyRootFilesystem"), True),
            *everywhere(EVERY_POD, ("volumes", Named("tmp")), {"name": "tmp", "emptyDir": {}}),
            *(env(pod, "HOME", "/tmp") for pod in EVERY_POD),
        ),
    ),
    (
        "security.lock_memory",
        True,
        (((*RANK, *BOX, "securityContext", "capabilities", "add"), ["IPC_LOCK"]),),
    ),
    ("job.start_seconds", 77, ((("preRunningDeadlineSeconds",), 77),)),
    ("job.deadline_seconds", 77, ((("activeDeadlineSeconds",), 77),)),
    ("job.keep_seconds", 77, ((("ttlSecondsAfterFinished",), 77),)),
    (
        "job.keep_failed_seconds",
        77,
        (
            (
                ("deletionStrategy", "deletionRules", 1),
                {
                    "policy": "DeleteCluster",
                    "condition": {"jobStatus": "FAILED", "ttlSeconds": 77},
                },
            ),
        ),
    ),
    (
        "job.forget_seconds",
        77,
        (
            (
                ("deletionStrategy", "deletionRules", 3),
                {"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "ttlSeconds": 77}},
            ),
        ),
    ),
    ("job.retries", 3, ((("backoffLimit",), 3),)),
    ("service.model", "other", ((("serve", "model"), "/data/other"),)),
    ("service.arguments", {"cache_tokens": 4096}, ((("serve", "cache_tokens"), 4096),)),
    ("service.upgrade", "none", ((("upgradeStrategy", "type"), "None"),)),
    ("service.gateway_class", "istio", (((*STEPS, "gatewayClassName"), "istio"),)),
    ("service.step_percent", 7, (((*STEPS, "stepSizePercent"), 7),)),
    ("service.step_seconds", 7, (((*STEPS, "intervalSeconds"), 7),)),
    ("service.surge_percent", 77, (((*STEPS, "maxSurgePercent"), 77),)),
    ("service.delete_seconds", 77, ((("rayClusterDeletionDelaySeconds",), 77),)),
    (
        "service.start_seconds",
        77,
        ((("metadata", "annotations", "ray.io/initializing-timeout"), "77s"),),
    ),
    ("queue.name", "team", ((("metadata", "labels", "kueue.x-k8s.io/queue-name"), "team"),)),
    ("queue.scheduler", "volcano", ((("metadata", "labels", "volcano.sh/queue-name"), "team"),)),
    (
        "queue.priority",
        "high",
        ((("metadata", "labels", "kueue.x-k8s.io/priority-class"), "high"),),
    ),
    (
        "topology.label",
        "a/rack",
        (
            (
                (
                    *RANK[:-1],
                    "metadata",
                    "annotations",
                    "kueue.x-k8s.io/podset-slice-required-topology",
                ),
                "a/rack",
            ),
        ),
    ),
    (
        "topology.unit",
        "run",
        (
            (
                (*RANK[:-1], "metadata", "annotations", "kueue.x-k8s.io/podset-required-topology"),
                "a/rack",
            ),
        ),
    ),
    (
        "topology.required",
        False,
        (
            (
                (
                    *RANK[:-1],
                    "metadata",
                    "annotations",
                    "kueue.x-k8s.io/podset-slice-preferred-topology",
                ),
                "a/rack",
            ),
        ),
    ),
    ("recovery.backend", "redis", (((*FT, "backend"), "redis"),)),
    ("recovery.redis_address", "r:6380", (((*FT, "redisAddress"), "r:6380"),)),
    (
        "recovery.redis_secret",
        "redis",
        (((*FT, "redisPassword", "valueFrom", "secretKeyRef", "name"), "redis"),),
    ),
    (
        "recovery.redis_secret_key",
        "other",
        (((*FT, "redisPassword", "valueFrom", "secretKeyRef", "key"), "other"),),
    ),
    ("recovery.rocksdb_gib", 7, (((*FT, "storage", "size"), "7Gi"),)),
    ("recovery.rocksdb_storage_class", "fast", (((*FT, "storage", "storageClassName"), "fast"),)),
    ("monitoring.prometheus_host", "http://p", (env(HEAD, "RAY_PROMETHEUS_HOST", "http://p"),)),
    ("monitoring.grafana_host", "http://g", (env(HEAD, "RAY_GRAFANA_HOST", "http://g"),)),
    (
        "monitoring.grafana_iframe_host",
        "http://i",
        (env(HEAD, "RAY_GRAFANA_IFRAME_HOST", "http://i"),),
    ),
    ("monitoring.history_image", "h:1", (((*COLLECTOR, "image"), "h:1"),)),
    (
        "monitoring.history_environment",
        {"A": "b"},
        (((*COLLECTOR, "env"), [{"name": "A", "value": "b"}]),),
    ),
    (
        "monitoring.history_secret",
        "s",
        (
            (
                (*COLLECTOR, "env", Named("AWS_ACCESS_KEY_ID"), "valueFrom", "secretKeyRef"),
                {"name": "s", "key": "AWS_ACCESS_KEY_ID"},
            ),
        ),
    ),
    (
        "monitoring.history_secret_keys",
        ["TOKEN"],
        (
            (
                (*COLLECTOR, "env"),
                [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "TOKEN"}}}],
            ),
        ),
    ),
]

_AUTOSCALE = {"workers": {"autoscale": True}}
_STEPS = _AUTOSCALE | {"service": {"upgrade": "incremental", "gateway_class": "g"}}
_KUEUE = {"queue": {"name": "team"}}
_RACK = _KUEUE | {"topology": {"label": "a/rack"}}
_REDIS = {"recovery": {"backend": "redis", "redis_address": "r:6379", "redis_secret": "s"}}
_ROCKS = {"recovery": {"backend": "rocksdb", "rocksdb_gib": 1}}

NEEDS: dict[str, dict[str, dict[str, Any]]] = {
    "workers.idle_seconds": _AUTOSCALE,
    "service.gateway_class": _STEPS,
    "service.step_percent": _STEPS,
    "service.step_seconds": _STEPS,
    "service.surge_percent": _STEPS,
    "queue.scheduler": _KUEUE,
    "queue.priority": _KUEUE,
    "topology.label": _KUEUE,
    "topology.unit": _RACK,
    "topology.required": _RACK,
    "recovery.backend": _REDIS,
    "recovery.redis_address": _REDIS,
    "recovery.redis_secret": _REDIS,
    "recovery.redis_secret_key": _REDIS,
    "recovery.rocksdb_gib": _ROCKS,
    "recovery.rocksdb_storage_class": _ROCKS,
    "monitoring.grafana_iframe_host": {"monitoring": {"grafana_host": "http://g"}},
    "monitoring.history_environment": {"monitoring": {"history_image": "h:1"}},
    "monitoring.history_secret": {"monitoring": {"history_image": "h:1"}},
    "monitoring.history_secret_keys": {
        "monitoring": {"history_image": "h:1", "history_secret": "s"}
    },
}
"""What must be set too for a key to be allowed."""
