"""Pods that look from inside: whether nodes can pull the image, and whether names resolve.

One pod for each place where pods of a run may be, as rendered pods are, without their GPUs and
volumes. It says which Ray and raymoe the image has, resolves names, and ends.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cluster.kube.api import Api
from cluster.kube.checks.finding import Finding
from cluster.kube.kinds import POD
from cluster.kube.observed import Observed
from cluster.kube.troubles import trouble
from cluster.kuberay.deployment import Deployment
from cluster.kuberay.deployment.sizes import PodPlace
from cluster.kuberay.pods import Pods

API_NAME = "kubernetes.default.svc"
"""The name of the API server in every cluster."""
POLL_SECONDS = 1.0

_GIVEN_UP = ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")

_SCRIPT = """
import json, socket, sys
from importlib.metadata import PackageNotFoundError, version
def of(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
def resolved(name):
    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        return str(error)
    return ""
names = {name: resolved(name) for name in sys.argv[1:]}
print(json.dumps({"ray": of("ray"), "raymoe": of("raymoe"), "names": names}))
"""

Table = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where pods of a run may be: that of the head or the driver, or of ranks on a kind."""

    what: str
    place: PodPlace | None = None
    kind: str = ""


def places(deployment: Deployment) -> list[Place]:
    """Return the places of a deployment, those that are alike once."""
    found = [Place("head", deployment.head), Place("driver", deployment.driver)]
    found += [Place(f"ranks on {kind}", None, kind) for kind in deployment.workers.node_selectors]
    pods = {place.what: _pod(deployment, place)["spec"] for place in found}
    return [
        place
        for number, place in enumerate(found)
        if all(pods[place.what] != pods[other.what] for other in found[:number])
    ]


def probe(api: Api, deployment: Deployment, seconds: float) -> Iterator[Finding]:
    """Start a pod in each place, yield what they find, and delete them."""
    found = places(deployment)
    tables = {place.what: _pod(deployment, place) for place in found}
    deadline = time.monotonic() + seconds
    try:
        for table in tables.values():
            api.apply(POD, table)
        for place in found:
            yield from _probed(api, deployment, place.what, tables[place.what], deadline)
    finally:
        for table in tables.values():
            api.delete(POD, deployment.namespace, table["metadata"]["name"])


def _pod(deployment: Deployment, place: Place) -> Table:
    command = ["python", "-c", _SCRIPT, *_hosts(deployment)]
    name = f"raymoe-probe-{hashlib.sha256(place.what.encode()).hexdigest()[:8]}"
    pods = Pods(deployment, name, "probe", files="", digest="")
    table = pods.probe(place.place, place.kind, command)
    metadata = table["metadata"] | {"name": name, "namespace": deployment.namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": table["spec"]}


def _hosts(deployment: Deployment) -> list[str]:
    """Return the names that pods of the deployment ask for."""
    urls = [
        deployment.recovery.redis_address,
        deployment.monitoring.prometheus_host,
        deployment.monitoring.grafana_host,
    ]
    full = (url if "://" in url else f"//{url}" for url in urls if url is not None)
    hosts = (urlsplit(url).hostname for url in full)
    return list(dict.fromkeys([API_NAME, *(host for host in hosts if host)]))


def _probed(
    api: Api, deployment: Deployment, what: str, table: Table, deadline: float
) -> Iterator[Finding]:
    name = table["metadata"]["name"]
    pod = _ended(api, deployment.namespace, name, deadline)
    phase = (pod.get("status") or {}).get("phase", "Pending")
    if phase != "Succeeded":
        why = trouble(Observed("Pod", name, pods=(pod,))).partition(": ")[2]
        started = phase in ("Running", "Failed")
        yield Finding(
            f"a pod for the {what}" if not started else f"image, for the {what}",
            False,
            why or f"{phase}, and did not end in time",
            "raise --seconds if the image is large; `raymoe kube status` has the same sentence of "
            "a run's pods"
            if not started
            else "the image must have python and raymoe on its path: see docs/guide/deployment.md",
        )
        return
    lines = [line for line in api.log(deployment.namespace, name, {}) if line.startswith("{")]
    yield from _said(json.loads(lines[-1]) if lines else {}, deployment, what)


def _said(told: Mapping[str, Any], deployment: Deployment, what: str) -> Iterator[Finding]:
    """Yield what a pod found from inside."""
    ray, ours, wished = told.get("ray"), told.get("raymoe"), deployment.image.ray_version
    yield Finding(
        f"image, for the {what}",
        bool(ours) and ray == wished,
        f"pulled; Ray {ray or 'not there'}, raymoe {ours or 'not there'}",
        f"image.ray_version is {wished}: set it to that of the image, or build the image anew",
    )
    failed = {name: error for name, error in told.get("names", {}).items() if error}
    yield Finding(
        f"names, for the {what}",
        not failed,
        "; ".join(f"{name}: {error}" for name, error in failed.items())
        or f"{', '.join(told.get('names', {}))} resolve",
        "the cluster's DNS must answer pods of this namespace: see its pods in kube-system, a "
        "NetworkPolicy that keeps port 53 from them, and the names in the deployment file",
    )


def _hopeless(status: Mapping[str, Any]) -> bool:
    """Return whether a node has given up to pull the image for now."""
    waiting = [
        (box.get("state") or {}).get("waiting") or {}
        for box in status.get("containerStatuses") or ()
    ]
    return any(each.get("reason") in _GIVEN_UP for each in waiting)


def _ended(api: Api, namespace: str, name: str, deadline: float) -> Table:
    """Return a pod as it is once it has ended, cannot start, or the time is over."""
    while True:
        pod = api.get(POD, namespace, name) or {"metadata": {"name": name, "labels": {}}}
        status = pod.get("status") or {}
        ended = status.get("phase") in ("Succeeded", "Failed")
        if ended or _hopeless(status) or time.monotonic() > deadline:
            return pod
        time.sleep(POLL_SECONDS)
