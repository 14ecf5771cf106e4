"""What a queue and a topology put on the objects and on the pods of ranks.

Kueue, Volcano, YuniKorn and KAI are told by labels of the RayJob or RayService, which KubeRay gives
on to the RayCluster. Where the pods of ranks may be is told to Kueue by annotations of their
template, and to the scheduler of Kubernetes by an affinity.
"""

from collections.abc import Mapping
from typing import Any

from cluster.kuberay.deployment import Deployment
from cluster.kuberay.groups import Group

RUN_LABEL = "raymoe/run"
ROLE_LABEL = "raymoe/role"
DRIVER_LABELS: Mapping[str, str] = {ROLE_LABEL: "driver"}
"""What the Ray node of the driver pod alone has: drivers and replicas of Ray Serve select it."""
COMPONENT_LABEL = "app.kubernetes.io/component"
"""Whether something trains a run or serves its model: both may be there at once."""
TRAINING, SERVING = "training", "serving"
"""The values of that label."""

KUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_QUEUE_LABEL: Mapping[str, str] = {
    "kueue": KUEUE_LABEL,
    "volcano": "volcano.sh/queue-name",
    "yunikorn": "yunikorn.apache.org/queue",
    "kai": "kai.scheduler/queue",
}
_PRIORITY_LABEL: Mapping[str, str] = {
    "kueue": "kueue.x-k8s.io/priority-class",
    "volcano": "ray.io/priority-class-name",
}
_GANG = {"ray.io/gang-scheduling-enabled": "true"}

Table = dict[str, Any]


def queue_labels(deployment: Deployment, name: str) -> dict[str, str]:
    """Return the labels by which an object waits in its queue; none without a queue."""
    queue = deployment.queue
    if not queue.given:
        return {}
    labels = {}
    if queue.name is not None:
        labels[_QUEUE_LABEL[queue.scheduler]] = queue.name
    if queue.priority is not None:
        labels[_PRIORITY_LABEL[queue.scheduler]] = queue.priority
    if queue.scheduler == "yunikorn":
        labels |= {"yunikorn.apache.org/app-id": name} | _GANG
    if queue.scheduler == "scheduler-plugins":
        labels |= _GANG
    return labels


def near_annotations(deployment: Deployment, group: Group) -> dict[str, str]:
    """Return what tells Kueue where the pods of a group of ranks may be."""
    topology, queue = deployment.topology, deployment.queue
    if not (topology.label and queue.given and queue.scheduler == "kueue"):
        return {}
    word = "required" if topology.required else "preferred"
    if topology.unit == "run":
        return {f"kueue.x-k8s.io/podset-{word}-topology": topology.label}
    return {
        f"kueue.x-k8s.io/podset-slice-{word}-topology": topology.label,
        "kueue.x-k8s.io/podset-slice-size": str(group.of_replica),
    }


def near_affinity(deployment: Deployment, run: str) -> Table:
    """Return what tells the scheduler of Kubernetes where the pods of ranks may be."""
    topology, queue = deployment.topology, deployment.queue
    if topology.label is None or (queue.given and queue.scheduler == "kueue"):
        return {}
    term = {
        "labelSelector": {"matchLabels": {RUN_LABEL: run, ROLE_LABEL: "rank"}},
        "topologyKey": topology.label,
    }
    if topology.required:
        terms: Table = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    else:
        weighed = {"weight": 100, "podAffinityTerm": term}
        terms = {"preferredDuringSchedulingIgnoredDuringExecution": [weighed]}
    return {"podAffinity": terms}
