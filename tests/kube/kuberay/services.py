"""What KubeRay does about a RayService (rayservice_controller.go) with the upgrades NewCluster and
None: a pending cluster that is prepared, given the Serve configuration, and made the active one
when all its applications run; the services that follow; the old cluster that goes after its delay.
Incremental upgrades through a Gateway it does not know.
"""

import copy
import hashlib
import json
import time
import urllib.request
from typing import Any

import yaml

from cluster.kube.kinds import POD, RAYCLUSTER, RAYSERVICE
from tests.kube.kuberay.clusters import HEAD_READY, condition, is_true, pods_of, suffix
from tests.kube.kuberay.dashboard import Dashboard, Silent
from tests.kube.kuberay.pods import CLUSTER, MADE_BY, MADE_FOR, SERVE, SERVE_PORT, TYPE
from tests.kube.objects import SERVICE, Objects, is_ready
from tests.kube.store import Table

FINALIZER = "ray.io/rayservice-finalizer"
HASH = "ray.io/hash-without-replicas-and-workers-to-delete"
_BOUNDS = ("minReplicas", "maxReplicas")
_SIZES = ("replicas", *_BOUNDS)


class Services:
    """The RayServices, with what KubeRay keeps of them in its own memory."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._configured: dict[str, str] = {}
        self._left: dict[str, float] = {}

    def reconcile(self, service: Table) -> None:
        """Do what is to be done about a RayService now."""
        name, metadata = service["metadata"]["name"], service["metadata"]
        held = metadata.get("finalizers", [])
        dangling = self._clean(service)
        if metadata.get("deletionTimestamp"):
            if not dangling and FINALIZER in held:
                left = [each for each in held if each != FINALIZER]
                self._objects.change(RAYSERVICE, name, {"metadata": {"finalizers": left}})
            return
        if FINALIZER not in held:
            self._objects.change(RAYSERVICE, name, {"metadata": {"finalizers": [*held, FINALIZER]}})
            return
        try:
            self._serve(service)
        except Silent:
            return

    def _serve(self, service: Table) -> None:
        status = copy.deepcopy(service.get("status") or {})
        active, pending = self._clusters(service, status)
        for cluster in filter(None, (active, pending)):
            self._label_head(service, cluster)
        if pending is not None:
            self._sized(service, pending)
            ready, found = self._configure(service, pending)
            status["pendingServiceStatus"]["applicationStatuses"] = found
            if ready:
                self._point(service, pending)
                status["activeServiceStatus"] = status.pop("pendingServiceStatus")
                active, pending = pending, None
        elif active is not None and not self._differs(service, active):
            self._sized(service, active)
            _, found = self._configure(service, active)
            status["activeServiceStatus"]["applicationStatuses"] = found
        self._prepare(service, status, active, pending)
        self._tell(service, status)

    def _clusters(self, service: Table, status: Table) -> tuple[Table | None, Table | None]:
        """Return the active and the pending cluster; makes the pending one, once."""
        found: list[Table | None] = []
        for part in ("activeServiceStatus", "pendingServiceStatus"):
            name = status.get(part, {}).get("rayClusterName")
            cluster = self._objects.get(RAYCLUSTER, name) if name else None
            if name and cluster is None and part == "pendingServiceStatus":
                cluster = self._objects.create(RAYCLUSTER, _cluster(service, name), service)
            found.append(cluster)
        return found[0], found[1]

    def _label_head(self, service: Table, cluster: Table) -> None:
        """Say whether the head takes part in serving: if it may, while its proxy is healthy."""
        excluded = service["spec"].get("excludeHeadPodFromServeSvc", False)
        for head in pods_of(self._objects, cluster, "head"):
            healthy = not excluded and _proxies(head.get("status", {}).get("podIP"))
            label = str(healthy).lower()
            if head["metadata"]["labels"].get(SERVE) != label:
                name = head["metadata"]["name"]
                self._objects.change(POD, name, {"metadata": {"labels": {SERVE: label}}})

    def _configure(self, service: Table, cluster: Table) -> tuple[bool, Table]:
        """Give Ray Serve its configuration where it lacks it; return whether everything runs."""
        name = cluster["metadata"]["name"]
        if not is_true((cluster.get("status") or {}).get("conditions", ()), HEAD_READY):
            return False, {}
        dashboard, wished = Dashboard(self._objects, cluster), service["spec"]["serveConfigV2"]
        found = dashboard.applications()
        if self._configured.get(name) != wished or not found:
            dashboard.serve(yaml.safe_load(wished))
            self._configured[name] = wished
            return False, _statuses(found)
        running = bool(found) and all(each["status"] == "RUNNING" for each in found.values())
        return running, _statuses(found)

    def _sized(self, service: Table, cluster: Table) -> None:
        """Carry over what of a changed service is changed in place: the sizes of groups."""
        if self._differs(service, cluster):
            return
        wished = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        groups = copy.deepcopy(cluster["spec"]["workerGroupSpecs"])
        scales = cluster["spec"].get("enableInTreeAutoscaling")
        keys = _BOUNDS if scales else _SIZES
        for group, other in zip(groups, wished, strict=True):
            group |= {key: other[key] for key in keys if key in other}
        if groups != cluster["spec"]["workerGroupSpecs"]:
            patch = {"spec": {"workerGroupSpecs": groups}}
            self._objects.change(RAYCLUSTER, cluster["metadata"]["name"], patch)

    def _differs(self, service: Table, cluster: Table) -> bool:
        made = cluster["metadata"]["annotations"][HASH]
        return bool(made != _hash(service["spec"]["rayClusterConfig"]))

    def _prepare(
        self, service: Table, status: Table, active: Table | None, pending: Table | None
    ) -> None:
        """Name a new cluster where there is none, or the newest is not what is wished."""
        newest = pending or active
        if newest is not None:
            kind = service["spec"].get("upgradeStrategy", {}).get("type", "NewCluster")
            if kind != "NewCluster" or not self._differs(service, newest):
                return
        status["pendingServiceStatus"] = {
            "rayClusterName": f"{service['metadata']['name']}-{suffix()}"
        }

    def _point(self, service: Table, cluster: Table) -> None:
        """Have the services find the pods of a cluster."""
        name = service["metadata"]["name"]
        own = {CLUSTER: cluster["metadata"]["name"]}
        for kind, chosen in (("head", {TYPE: "head"}), ("serve", {SERVE: "true"})):
            metadata = {"name": f"{name}-{kind}-svc", "labels": _made_for(service)}
            spec = {"selector": own | chosen, "ports": [{"name": "serve", "port": SERVE_PORT}]}
            if self._objects.get(SERVICE, metadata["name"]) is None:
                self._objects.create(SERVICE, {"metadata": metadata, "spec": spec}, service)
            self._objects.change(SERVICE, metadata["name"], {"spec": spec})

    def _clean(self, service: Table) -> bool:
        """Delete the clusters that are neither active nor pending; return whether there are any."""
        status, gone = service.get("status") or {}, service["metadata"].get("deletionTimestamp")
        parts = (status.get("activeServiceStatus", {}), status.get("pendingServiceStatus", {}))
        kept = {each.get("rayClusterName") for each in parts}
        selector = f"{MADE_FOR}={service['metadata']['name']},{MADE_BY}=RayService"
        dangling = False
        for cluster in self._objects.every(RAYCLUSTER, selector):
            name = cluster["metadata"]["name"]
            if name in kept and not gone:
                continue
            dangling = True
            delay = 0 if gone else service["spec"].get("rayClusterDeletionDelaySeconds", 60)
            since = self._left.setdefault(name, time.monotonic())
            if time.monotonic() >= since + delay:
                self._objects.delete(RAYCLUSTER, name)
        return dangling

    def _tell(self, service: Table, status: Table) -> None:
        name = service["metadata"]["name"]
        active = status.get("activeServiceStatus", {}).get("rayClusterName")
        pending = status.get("pendingServiceStatus", {}).get("rayClusterName")
        points = len(endpoints(self._objects, f"{name}-serve-svc"))
        status |= {
            "numServeEndpoints": points,
            "observedGeneration": service["metadata"]["generation"],
        }
        status["conditions"] = list(_conditions(points, active, pending, status))
        status["serviceStatus"] = "Running" if points else ""
        if status != service.get("status"):
            # A merge patch removes what is null: the pending cluster, once it is the active one.
            self._objects.status(RAYSERVICE, name, {"pendingServiceStatus": None} | status)


def endpoints(objects: Objects, service: str) -> list[str]:
    """Return the addresses of the pods behind a service that are ready."""
    found = objects.get(SERVICE, service)
    if found is None:
        return []
    selector = ",".join(f"{key}={value}" for key, value in found["spec"]["selector"].items())
    pods = objects.every(POD, selector)
    there = [
        each for each in pods if is_ready(each) and "deletionTimestamp" not in each["metadata"]
    ]
    return [str(each["status"]["podIP"]) for each in there]


def _conditions(points: int, active: str | None, pending: str | None, status: Table) -> Any:
    before = status.get("conditions", ())
    if points:
        words = "Number of serve endpoints is greater than 0"
        yield condition("Ready", True, "NonZeroServeEndpoints", words, before)
    elif is_true(before, "Ready"):
        words = "Number of serve endpoints dropped to 0"
        yield condition("Ready", False, "ZeroServeEndpoints", words, before)
    else:
        old = next((each for each in before if each["type"] == "Ready"), None)
        words = "RayService is initializing"
        yield old or condition("Ready", False, "Initializing", words, before)
    if active and pending:
        words = "Both active and pending Ray clusters exist"
        yield condition("UpgradeInProgress", True, "BothActivePendingClustersExist", words, before)
    elif active:
        words = "Active Ray cluster exists and no pending Ray cluster"
        yield condition("UpgradeInProgress", False, "NoPendingCluster", words, before)
    else:
        words = "RayService is initializing"
        yield condition("UpgradeInProgress", False, "Initializing", words, before)


def _proxies(address: str | None) -> bool:
    """Return whether the proxy of Ray Serve on a pod is healthy."""
    try:
        with urllib.request.urlopen(
            f"http://{address}:{SERVE_PORT}/-/healthz", timeout=2
        ) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _statuses(applications: Table) -> Table:
    return {
        name: {
            "status": each["status"],
            "message": each.get("message", ""),
            "serveDeploymentStatuses": {
                key: {"status": one["status"], "message": one.get("message", "")}
                for key, one in each.get("deployments", {}).items()
            },
        }
        for name, each in applications.items()
    }


def _cluster(service: Table, name: str) -> Table:
    spec = copy.deepcopy(service["spec"]["rayClusterConfig"])
    notes = dict(service["metadata"].get("annotations", {})) | {HASH: _hash(spec)}
    labels = dict(service["metadata"].get("labels", {})) | _made_for(service)
    return {"metadata": {"name": name, "labels": labels, "annotations": notes}, "spec": spec}


def _made_for(service: Table) -> dict[str, str]:
    return {MADE_FOR: service["metadata"]["name"], MADE_BY: "RayService"}


def _hash(spec: Table) -> str:
    """Return a digest of what of a cluster cannot be changed in place."""
    muted = copy.deepcopy(spec)
    for group in muted["workerGroupSpecs"]:
        for key in (*_SIZES, "scaleStrategy"):
            group.pop(key, None)
        group["template"]["spec"].pop("tolerations", None)
    muted["headGroupSpec"]["template"]["spec"].pop("tolerations", None)
    return hashlib.sha1(json.dumps(muted, sort_keys=True).encode()).hexdigest()
