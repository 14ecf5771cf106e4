"""What must be there before a run can be applied: each check with its remedy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cluster.kube.api import Api, Refusal
from cluster.kube.kinds import (
    ACCOUNT,
    CLAIM,
    DEFINITION,
    DEPLOYMENT,
    NODE,
    QUOTA,
    SECRET,
    STORAGE_CLASS,
)
from cluster.kuberay.deployment import Deployment

OLDEST_OPERATOR = (1, 7)

RIGHTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("ray.io", "rayjobs", ("get", "list", "create", "patch", "delete")),
    ("ray.io", "rayservices", ("get", "list", "create", "patch", "delete")),
    ("ray.io", "rayclusters", ("get", "list")),
    ("", "configmaps", ("get", "list", "create", "patch", "delete")),
    ("policy", "poddisruptionbudgets", ("get", "list", "create", "patch", "delete")),
    ("", "pods", ("get", "list")),
    ("", "events", ("list",)),
    ("", "pods/log", ("get",)),
    ("", "pods/portforward", ("create",)),
    ("", "secrets", ("get",)),
)
"""What the verbs of ``raymoe kube`` ask of the API server, as manifests/base/rights.yaml grants it.
"""

Table = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: whether it passed (None: it could not be made), what was found, what to do."""

    what: str
    good: bool | None
    found: str
    remedy: str = ""


def examine(api: Api, deployment: Deployment) -> Iterator[Finding]:
    """Yield every finding about a cluster, for objects of this deployment."""
    yield Finding("API server", True, f"{api.version()} at {api.host}")
    checks: tuple[Callable[[Api, Deployment], Iterator[Finding]], ...] = (
        _definitions,
        _operator,
        _rights,
        _storage,
        _names,
        _nodes,
        _quotas,
    )
    for check in checks:
        try:
            yield from check(api, deployment)
        except Refusal as refusal:
            yield Finding(
                check.__name__.strip("_"),
                None,
                f"not examined: {refusal.message}",
                "run it under an account that may read this",
            )


def _definitions(api: Api, deployment: Deployment) -> Iterator[Finding]:
    remedy = "install KubeRay: helm install kuberay-operator kuberay/kuberay-operator"
    for plural in ("rayclusters", "rayjobs", "rayservices"):
        table = api.get(DEFINITION, None, f"{plural}.ray.io")
        versions = [each["name"] for each in (table or {}).get("spec", {}).get("versions", ())]
        found = f"versions {', '.join(versions)}" if versions else "not installed"
        yield Finding(f"definition of {plural}", "v1" in versions, found, remedy)


def _operator(api: Api, deployment: Deployment) -> Iterator[Finding]:
    selector = "app.kubernetes.io/name=kuberay-operator"
    found = api.every(DEPLOYMENT, None, selector)
    if not found:
        yield Finding("operator", False, f"no deployment has {selector}", "install KubeRay")
        return
    box = found[0]["spec"]["template"]["spec"]["containers"][0]
    image, ready = box["image"], (found[0].get("status") or {}).get("readyReplicas") or 0
    version = image.rpartition(":")[2].lstrip("v")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    wished = ".".join(map(str, OLDEST_OPERATOR))
    yield Finding("operator runs", ready > 0, f"{ready} ready pods", "see the log of its pod")
    known = len(numbers) == len(OLDEST_OPERATOR)
    yield Finding(
        "operator version",
        numbers >= OLDEST_OPERATOR if known else None,
        version,
        f"objects are rendered for KubeRay {wished}: install that or a newer one",
    )
    yield from _watched(box, deployment.namespace)


def _watched(box: Table, namespace: str) -> Iterator[Finding]:
    """Yield whether the operator looks at the namespace: it may be told to look at some alone."""
    flag = "--watch-namespace"
    words = [*(box.get("command") or ()), *(box.get("args") or ())]
    named = [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]
    watched = [each for each in ",".join(named).split(",") if each]
    if watched:
        yield Finding(
            "operator watches",
            namespace in watched,
            ", ".join(watched),
            f"add {namespace} to {flag} of the operator, or take one of these as namespace",
        )


def _rights(api: Api, deployment: Deployment) -> Iterator[Finding]:
    lacking = [
        f"{verb} {resource}"
        for group, resource, verbs in RIGHTS
        for verb in verbs
        if not api.may(verb, group, resource, deployment.namespace)
    ]
    found = f"lacking: {', '.join(lacking)}" if lacking else "all that raymoe asks for"
    remedy = f"bind the Role of manifests/base/rights.yaml in namespace {deployment.namespace}"
    yield Finding("rights", not lacking, found, remedy)


def _storage(api: Api, deployment: Deployment) -> Iterator[Finding]:
    name = deployment.storage.claim
    claim = api.get(CLAIM, deployment.namespace, name)
    if claim is None:
        yield Finding(f"claim {name}", False, "not there", "make it (manifests/base/storage.yaml)")
        return
    spec, phase = claim["spec"], (claim.get("status") or {}).get("phase", "Pending")
    modes = spec.get("accessModes") or []
    found = f"{phase}, {', '.join(modes)}"
    waits = _waits_for_pods(api, spec.get("storageClassName"))
    yield Finding(
        f"claim {name}",
        phase == "Bound" or waits,
        found + (", bound with its first pod" if waits and phase != "Bound" else ""),
        "see its events: a StorageClass that exists and can provision the access mode",
    )
    yield Finding(
        f"access mode of {name}",
        "ReadWriteMany" in modes or None,
        ", ".join(modes),
        "pods of several nodes need ReadWriteMany; one node can do with ReadWriteOnce",
    )


def _waits_for_pods(api: Api, name: str | None) -> bool:
    """Return whether volumes of a StorageClass are made with the first pod that mounts them."""
    try:
        table = api.get(STORAGE_CLASS, None, name) if name else None
    except Refusal:
        return False
    return bool(table) and table["volumeBindingMode"] == "WaitForFirstConsumer"  # type: ignore[index]


def _names(api: Api, deployment: Deployment) -> Iterator[Finding]:
    """Yield whether the objects that pods name are there."""
    secrets = [
        *deployment.image.pull_secrets,
        *deployment.pods.environment_secrets,
        *(each.secret for each in deployment.volumes if each.secret),
        deployment.security.token_secret,
        deployment.recovery.redis_secret,
    ]
    wished = [(SECRET, name) for name in dict.fromkeys(secrets) if name is not None]
    wished += [(CLAIM, each.claim) for each in deployment.volumes if each.claim]
    if deployment.security.service_account:
        wished.append((ACCOUNT, deployment.security.service_account))
    for kind, name in wished:
        there = api.get(kind, deployment.namespace, name) is not None
        where = f"in namespace {deployment.namespace}"
        yield Finding(
            f"{kind.name} {name}",
            there,
            "there" if there else "not there",
            f"make it {where}, or correct the deployment file",
        )


def _nodes(api: Api, deployment: Deployment) -> Iterator[Finding]:
    """Yield whether some node has the labels that pods ask for, and how many GPUs there are."""
    nodes = api.every(NODE, None)
    selectors = {
        "head": deployment.head.node_selector,
        "driver": deployment.driver.node_selector,
        **{f"ranks on {kind}": each for kind, each in deployment.workers.node_selectors.items()},
    }
    for what, selector in selectors.items():
        able = [node for node in nodes if selector.items() <= _labels(node).items()]
        if selector:
            words = ", ".join(f"{key}={value}" for key, value in selector.items())
            found = f"{len(able)} of {len(nodes)} nodes have {words}{_gpus(able, deployment)}"
            yield Finding(f"nodes for {what}", bool(able), found, "label nodes, or add such nodes")


def _gpus(nodes: list[Table], deployment: Deployment) -> str:
    wished = deployment.workers.gpu_resource
    names = [wished] if wished else ["nvidia.com/gpu", "amd.com/gpu"]
    count = sum(
        int((node.get("status") or {}).get("allocatable", {}).get(name, 0))
        for node in nodes
        for name in names
    )
    return f", {count} GPUs" if count else ""


def _labels(node: Table) -> Table:
    return dict(node["metadata"].get("labels") or {})


def _quotas(api: Api, deployment: Deployment) -> Iterator[Finding]:
    """Yield what quotas of the namespace leave."""
    for quota in api.every(QUOTA, deployment.namespace):
        status = quota.get("status") or {}
        hard, used = status.get("hard") or {}, status.get("used") or {}
        full = [name for name, most in hard.items() if used.get(name) == most]
        words = ", ".join(f"{name} {used.get(name, '0')} of {most}" for name, most in hard.items())
        yield Finding(
            f"quota {quota['metadata']['name']}",
            not full,
            words or "nothing counted yet",
            f"{', '.join(full)} is used up: end something, or raise the quota",
        )
