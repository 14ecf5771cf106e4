"""What quotas of a namespace leave, and whether that is enough for rendered objects."""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from cluster.kube.api import Api
from cluster.kube.checks.finding import Finding
from cluster.kube.kinds import QUOTA
from cluster.kube.quantities import amount
from cluster.kuberay.deployment import Deployment
from cluster.kuberay.rules import CLUSTER_KEYS

Table = dict[str, Any]
Amounts = dict[str, Decimal]


def quotas(api: Api, deployment: Deployment, objects: Iterable[Table] = ()) -> Iterator[Finding]:
    """Yield what quotas leave; with objects, whether all pods of theirs fit together."""
    asked = needed(objects)
    for quota in api.every(QUOTA, deployment.namespace):
        status, name = quota.get("status") or {}, f"quota {quota['metadata']['name']}"
        hard = status.get("hard") or quota.get("spec", {}).get("hard") or {}
        used = status.get("used") or {}
        left = {key: amount(most) - amount(used.get(key, 0)) for key, most in hard.items()}
        words = ", ".join(f"{key} {used.get(key, '0')} of {most}" for key, most in hard.items())
        short = [
            f"{key}: {asked[key]:f} asked, {left[key]:f} left"
            for key in hard
            if asked.get(key, 0) > left[key]
        ]
        full = [key for key, rest in left.items() if rest <= 0]
        remedy = f"{', '.join(full)} is used up: end something, or raise the quota"
        if short:
            remedy = f"too little for the objects ({'; '.join(short)}): raise it, or a smaller plan"
        yield Finding(name, not (short or full), words or "nothing counted yet", remedy)


def needed(objects: Iterable[Table]) -> Amounts:
    """Return what the pods of objects ask for when all are there, in a quota's words."""
    total: Amounts = {}
    for table in objects:
        for pod, count in _pods(table):
            for key, each in _amounts(pod).items():
                total[key] = total.get(key, Decimal(0)) + each * count
    return total


def _pods(table: Table) -> Iterator[tuple[Table, int]]:
    """Yield each pod of an object with their number at the most."""
    key = CLUSTER_KEYS.get(table["kind"])
    if key is None:
        return
    cluster = table["spec"][key]
    scaler = cluster.get("autoscalerOptions", {}).get("resources")
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    yield {"containers": [*head, *([{"resources": scaler}] if scaler else [])]}, 1
    for group in cluster["workerGroupSpecs"]:
        yield group["template"]["spec"], group["maxReplicas"]
    if "submitterPodTemplate" in table["spec"]:
        yield table["spec"]["submitterPodTemplate"]["spec"], 1


def _amounts(pod: Table) -> Amounts:
    """Return what a quota counts of a pod: under several names for requests and limits."""
    found: Amounts = {"pods": Decimal(1), "count/pods": Decimal(1)}
    for container in pod["containers"]:
        for part in ("requests", "limits"):
            for key, text in container["resources"].get(part, {}).items():
                names = [f"{part}.{key}"]
                if part == "requests" and key in ("cpu", "memory", "ephemeral-storage"):
                    names.append(key)
                for name in names:
                    found[name] = found.get(name, Decimal(0)) + amount(text)
    return found
