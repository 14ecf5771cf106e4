"""Pod templates of the head and of worker groups, for namespaces that enforce pod security.

KubeRay itself adds probes, init containers and start commands, and /dev/shm where none is given.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.kuberay.amounts import resources
from cluster.kuberay.deployment import Deployment, PodsSection, Toleration
from cluster.kuberay.deployment.sizes import GIB, PodPlace
from cluster.kuberay.groups import Group
from cluster.kuberay.placing import gpu_resource, placed, tolerations
from cluster.kuberay.readiness import SERVE_PORT, readiness
from cluster.kuberay.scheduling import (
    COMPONENT_LABEL,
    ROLE_LABEL,
    RUN_LABEL,
    near_affinity,
    near_annotations,
)
from cluster.kuberay.security import container_security, pod_security
from cluster.kuberay.volumes import SCRATCH, cluster_volumes, scratch_volumes
from moe.planning.devices.inventory import CPU

KIND_LABEL = "raymoe/kind"
FILES_ANNOTATION = "raymoe/files"
"""A digest of the files of the work, so that a pod whose files have changed is another pod."""

RANKS_ANNOTATION = "raymoe/ranks"
"""How many ranks a pod has room for: one gang."""

NOTICE = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
"""The variable by which ``ray start`` knows how long its node may take to leave after SIGTERM: it
tells Ray's head so, with the deadline, and ends when the node is empty or the time is over.
"""

HEAD_PORTS: Mapping[str, int] = {
    "gcs-server": 6379,
    "dashboard": 8265,
    "serve": SERVE_PORT,
    "metrics": 8080,
    "as-metrics": 44217,
    "dash-metrics": 44227,
}
"""All ports of the head: KubeRay adds no default ports to a head that names any port."""

Table = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pods:
    """What the pods of one object have in common. ``files`` names the ConfigMap of the work, and
    ``digest`` says which texts it holds.
    """

    deployment: Deployment
    run: str
    component: str
    files: str
    digest: str

    def head(self) -> Table:
        """Return the head's pod: it holds no ranks, and it alone may call the Kubernetes API."""
        head, workers = self.deployment.head, self.deployment.workers
        ports = [{"name": name, "containerPort": port} for name, port in HEAD_PORTS.items()]
        container = self._container("ray-head", self._watchers()) | {
            "ports": ports,
            "resources": resources(head.cpus, head.memory_bytes, head.disk_gib),
        }
        spec = self._of_cluster(container, head.node_selector, head.tolerations)
        spec |= {"automountServiceAccountToken": workers.autoscale}
        return {"metadata": self._metadata("head"), "spec": spec}

    def worker(self, group: Group) -> Table:
        """Return a worker's pod: the driver, or one gang with its CPU threads, memory and GPUs.

        When Kubernetes deletes it, its ranks are told to leave (``cluster.watch``).
        """
        return self._ranks(group) if group.role == "rank" else self._driver(group)

    def submitter(self) -> Table:
        """Return the pod that submits the job to the cluster; KubeRay fills in its command."""
        container = self._container("ray-job-submitter") | {"resources": resources(1, GIB, 1)}
        spec = self._pod(container, scratch_volumes(self.deployment)) | {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
        }
        return {"metadata": self._metadata("submitter", {}), "spec": spec}

    def probe(self, place: PodPlace | None, kind: str, command: Sequence[str]) -> Table:
        """Return the metadata and the spec of a pod that runs a command and ends.

        It is where a pod of that ``place`` may be, or one of ranks on devices of a ``kind``.
        """
        container = self._container("probe") | {
            "command": list(command),
            "resources": resources(1, GIB // 2, 1),
        }
        spec = self._pod(container, scratch_volumes(self.deployment)) | {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
        }
        selector, tolerated = (
            (
                self.deployment.workers.node_selectors.get(kind, {}),
                tolerations(kind, self.deployment),
            )
            if place is None
            else (place.node_selector, place.tolerations)
        )
        return {
            "metadata": self._metadata("probe", {}),
            "spec": spec | placed(selector, tolerated),
        }

    def _driver(self, group: Group) -> Table:
        driver = self.deployment.driver
        container = self._ray_worker() | {
            "resources": resources(group.cpus, group.memory_bytes, driver.disk_gib)
        }
        place = driver.node_selector, driver.tolerations
        spec = self._of_cluster(container, *place, group.shared_bytes)
        spec |= {"automountServiceAccountToken": False}
        return {"metadata": self._metadata(group.role), "spec": spec}

    def _ranks(self, group: Group) -> Table:
        workers = self.deployment.workers
        devices = {name: str(amount) for name, amount in workers.devices.items()}
        gpu = {gpu_resource(group.kind, self.deployment): str(group.gpus)} if group.gpus else {}
        container = self._ray_worker() | {
            "securityContext": container_security(
                self.deployment.security, self.deployment.security.lock_memory
            ),
            "resources": resources(group.cpus, group.memory_bytes, workers.disk_gib, gpu | devices),
        }
        selected = workers.node_selectors.get(group.kind, {})
        tolerated = tolerations(group.kind, self.deployment)
        spec = self._of_cluster(container, selected, tolerated, group.shared_bytes)
        spec |= {"automountServiceAccountToken": False}
        if affinity := near_affinity(self.deployment, self.run):
            spec["affinity"] = affinity
        notes = {RANKS_ANNOTATION: str(group.ranks)} | near_annotations(self.deployment, group)
        return {"metadata": self._metadata(group.role, self._digest() | notes), "spec": spec}

    def _ray_worker(self) -> Table:
        return self._container("ray-worker", self._notice()) | readiness(self.component)

    def _notice(self) -> dict[str, str]:
        return {NOTICE: str(self.deployment.pods.notice_seconds)}

    def _watchers(self) -> dict[str, str]:
        """Return the variables by which the dashboard finds Prometheus and Grafana."""
        watched = self.deployment.monitoring
        given = {
            "RAY_PROMETHEUS_HOST": watched.prometheus_host,
            "RAY_GRAFANA_HOST": watched.grafana_host,
            "RAY_GRAFANA_IFRAME_HOST": watched.grafana_iframe_host or watched.grafana_host,
        }
        return {name: url for name, url in given.items() if url is not None}

    def _digest(self) -> dict[str, str]:
        return {FILES_ANNOTATION: self.digest}

    def _metadata(self, role: str, annotations: Mapping[str, str] | None = None) -> Table:
        """Return metadata with our own labels: KubeRay's labels do not name the run of a pod."""
        pods = self.deployment.pods
        more = self._digest() if annotations is None else annotations
        every = dict(pods.annotations) | dict(more)
        own = {RUN_LABEL: self.run, ROLE_LABEL: role, COMPONENT_LABEL: self.component}
        labels = dict(pods.labels) | own
        return {"labels": labels, **({"annotations": every} if every else {})}

    def _container(self, name: str, variables: Mapping[str, str] | None = None) -> Table:
        security = self.deployment.security
        home = {"HOME": SCRATCH} if security.read_only_root else {}
        return {
            "name": name,
            "image": self.deployment.image.name,
            "imagePullPolicy": "IfNotPresent",
            "securityContext": container_security(security),
            **_environment(self.deployment.pods, home | dict(variables or {})),
        }

    def _of_cluster(
        self,
        container: Table,
        node_selector: Mapping[str, str],
        tolerated: Sequence[Toleration],
        shared_bytes: int = 0,
    ) -> Table:
        """Return a pod of the Ray cluster with its volumes, its identity and its nodes."""
        volumes = cluster_volumes(self.deployment, self.files, shared_bytes)
        spec = self._pod(container, volumes)
        if account := self.deployment.security.service_account:
            spec["serviceAccountName"] = account
        return spec | placed(node_selector, tolerated)

    def _pod(self, container: Table, volumes: Table) -> Table:
        pods = self.deployment.pods
        mounts = volumes["volumeMounts"]
        spec: Table = {
            "securityContext": pod_security(self.deployment.security),
            "terminationGracePeriodSeconds": pods.grace_seconds,
            "containers": [container | ({"volumeMounts": mounts} if mounts else {})],
        }
        if volumes["volumes"]:
            spec["volumes"] = volumes["volumes"]
        if secrets := self.deployment.image.pull_secrets:
            spec["imagePullSecrets"] = [{"name": name} for name in secrets]
        if pods.priority_class is not None:
            spec["priorityClassName"] = pods.priority_class
        return spec


def node_labels(group: Group) -> dict[str, str]:
    """Return the labels of a group's Ray nodes, which the labels of a plan's ranks may select."""
    own = {ROLE_LABEL: group.role, KIND_LABEL: label_value(group.kind)}
    return dict(group.labels) | own


def label_value(text: str) -> str:
    """Return text as a label value: at most 63 letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:63].strip("._-") or CPU


def _environment(pods: PodsSection, variables: Mapping[str, str]) -> Table:
    """Return the variables of a container; the deployment file overrides those that we set."""
    found: Table = {}
    if every := dict(variables) | pods.environment:
        found["env"] = [{"name": key, "value": value} for key, value in sorted(every.items())]
    if pods.environment_secrets:
        found["envFrom"] = [{"secretRef": {"name": name}} for name in pods.environment_secrets]
    return found
