"""On which Kubernetes nodes a pod may be: labels that it selects, and taints that it tolerates."""

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.kuberay.deployment import Deployment, Toleration
from moe.planning.devices.inventory import CPU
from moe.planning.devices.rates import AMD, vendor_of

Table = dict[str, Any]


def placed(selector: Mapping[str, str], tolerated: Sequence[Toleration]) -> Table:
    """Return what of a pod says on which nodes it may be."""
    found: Table = {}
    if selector:
        found["nodeSelector"] = dict(selector)
    if tolerated:
        found["tolerations"] = [_toleration(each) for each in tolerated]
    return found


def gpu_resource(kind: str, deployment: Deployment) -> str:
    """Return the resource by which Kubernetes counts GPUs of a kind."""
    of_vendor = "amd.com/gpu" if vendor_of(kind) == AMD else "nvidia.com/gpu"
    return deployment.workers.gpu_resource or of_vendor


def tolerations(kind: str, deployment: Deployment) -> list[Toleration]:
    """Return the taints that pods of ranks on devices of a kind tolerate."""
    taint = Toleration(key=gpu_resource(kind, deployment), effect="NoSchedule")
    return [*([] if kind == CPU else [taint]), *deployment.workers.tolerations]


def _toleration(toleration: Toleration) -> Table:
    operator = "Exists" if toleration.value is None else "Equal"
    value = {} if toleration.value is None else {"value": toleration.value}
    effect = {} if toleration.effect is None else {"effect": toleration.effect}
    return {"key": toleration.key, "operator": operator, **value, **effect}
