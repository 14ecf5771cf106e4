"""KubeRay: its definitions, its operator, and how that was started."""

from collections.abc import Iterator
from typing import Any

from cluster.kube.api import Api
from cluster.kube.checks.finding import Finding
from cluster.kube.kinds import DEFINITION, DEPLOYMENT, LOCAL_QUEUE
from cluster.kuberay.deployment import Deployment

OLDEST_OPERATOR = (1, 7)

NEWEST_FIELDS = {
    "rayclusters": ("authOptions", "secretName"),
    "rayjobs": ("preRunningDeadlineSeconds",),
    "rayservices": ("rayClusterDeletionDelaySeconds",),
}
"""A field of each definition that older ones lack. A chart that is upgraded keeps old definitions.
"""

_INSTALL = (
    "install KubeRay: helm install kuberay-operator kuberay-operator --repo "
    "https://ray-project.github.io/kuberay-helm --version 1.7.0"
)
_UPGRADE = (
    "replace the definitions (helm leaves old ones): kubectl replace --kustomize "
    "'github.com/ray-project/kuberay/ray-operator/config/crd?ref=v1.7.0'"
)

Table = dict[str, Any]


def definitions(api: Api, deployment: Deployment) -> Iterator[Finding]:
    """Yield whether KubeRay's kinds are there, and new enough for what is rendered."""
    for plural, field in NEWEST_FIELDS.items():
        table = api.get(DEFINITION, None, f"{plural}.ray.io")
        versions = {
            each["name"]: each for each in (table or {}).get("spec", {}).get("versions", ())
        }
        found = f"versions {', '.join(versions)}" if versions else "not installed"
        yield Finding(f"definition of {plural}", "v1" in versions, found, _INSTALL)
        if "v1" in versions and not _has(versions["v1"], field):
            yield Finding(
                f"fields of {plural}", False, f"spec.{'.'.join(field)} is not among them", _UPGRADE
            )


def _has(version: Table, field: tuple[str, ...]) -> bool:
    """Return whether the spec of a definition has a field; one without a schema has all."""
    node = version.get("schema", {}).get("openAPIV3Schema")
    for key in ("spec", *field) if node is not None else ():
        node = node.get("properties", {}).get(key)
        if node is None:
            return False
    return True


def operator(api: Api, deployment: Deployment) -> Iterator[Finding]:
    """Yield whether the operator runs, is new enough, and was started with what we need of it."""
    selector = "app.kubernetes.io/name=kuberay-operator"
    found = api.every(DEPLOYMENT, None, selector)
    if not found:
        yield Finding("operator", False, f"no deployment has {selector}", _INSTALL)
        return
    box = found[0]["spec"]["template"]["spec"]["containers"][0]
    image, ready = box["image"], (found[0].get("status") or {}).get("readyReplicas") or 0
    version = image.partition("@")[0].rpartition("/")[2].partition(":")[2].lstrip("v")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    wished = ".".join(map(str, OLDEST_OPERATOR))
    where = f"{found[0]['metadata'].get('namespace')}/{found[0]['metadata']['name']}"
    log = f"kubectl logs -n {where.replace('/', ' deployment/')}"
    yield Finding("operator runs", ready > 0, f"{ready} ready pods", f"see its log: {log}")
    known = len(numbers) == len(OLDEST_OPERATOR)
    yield Finding(
        "operator version",
        numbers >= OLDEST_OPERATOR if known else None,
        version or image,
        f"objects are rendered for KubeRay {wished}, and an older operator drops fields that it "
        "does not know: upgrade it, definitions included",
    )
    words = [*(box.get("command") or ()), *(box.get("args") or ())]
    yield from _watched(words, deployment.namespace)
    yield from _started(words, deployment)


def _watched(words: list[str], namespace: str) -> Iterator[Finding]:
    """Yield whether the operator looks at the namespace: it may be told to look at some alone."""
    flag = "--watch-namespace"
    watched = _values(words, flag)
    if watched:
        yield Finding(
            "operator watches",
            namespace in watched,
            ", ".join(watched),
            f"add {namespace} to {flag} of the operator, or take one of these as namespace",
        )


def _started(words: list[str], deployment: Deployment) -> Iterator[Finding]:
    """Yield whether the operator has the feature gates and the scheduler of the deployment."""
    by_file = any(word.startswith("--config") for word in words)
    gates = _values(words, "--feature-gates")
    asked = {
        "GCSFaultToleranceEmbeddedStorage": deployment.recovery.backend == "rocksdb",
        "RayClusterHistoryServer": deployment.monitoring.history_image is not None,
    }
    for gate in (gate for gate, needed in asked.items() if needed):
        on = f"{gate}=true" in gates
        yield Finding(
            f"feature gate {gate}",
            on or (None if by_file else False),
            "on" if on else f"not in --feature-gates ({', '.join(gates) or 'none'})",
            f"start the operator with --feature-gates={gate}=true (featureGates of its chart)",
        )
    queue = deployment.queue
    if queue.given and queue.scheduler != "kueue":
        found = _values(words, "--batch-scheduler")
        on = queue.scheduler in found
        yield Finding(
            "operator's scheduler",
            on or (None if by_file else False),
            ", ".join(found) or "none",
            f"start the operator with --batch-scheduler={queue.scheduler} (batchScheduler.name of "
            "its chart), or correct queue.scheduler",
        )


def _values(words: list[str], flag: str) -> list[str]:
    named = [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]
    return [each for each in ",".join(named).split(",") if each]


def queue(api: Api, deployment: Deployment) -> Iterator[Finding]:
    """Yield whether the LocalQueue of Kueue is there, and takes jobs."""
    name = deployment.queue.name
    if name is None or deployment.queue.scheduler != "kueue":
        return
    table = api.get(LOCAL_QUEUE, deployment.namespace, name)
    if table is None:
        yield Finding(
            f"queue {name}",
            False,
            f"no LocalQueue of Kueue in namespace {deployment.namespace}",
            "make it (manifests/components/kueue), or correct queue.name; install Kueue if it is "
            "not there",
        )
        return
    conditions = {each["type"]: each for each in (table.get("status") or {}).get("conditions", ())}
    active = conditions.get("Active", {})
    yield Finding(
        f"queue {name}",
        active.get("status") == "True" if active else None,
        str(active.get("message") or "its ClusterQueue has not answered"),
        f"its ClusterQueue {table['spec'].get('clusterQueue')} must exist and be active",
    )
