"""What applying an object would do: a pure function of what is wished and what is there.

What would be afterwards is the server's own answer to a dry run, so that defaults and the fields
of others count as the server counts them.
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

from cluster.kuberay.rules import CLUSTER_KEYS

Table = dict[str, Any]
What = Literal["create", "change", "keep", "wait", "refuse"]

_OWN = "raymoe"
_BY = "app.kubernetes.io/managed-by"
_IGNORED = ("managedFields", "resourceVersion", "generation", "creationTimestamp", "uid")
_IN_PLACE = ("replicas", "minReplicas", "maxReplicas", "scaleStrategy")
"""Keys of a worker group that KubeRay changes in a running cluster."""
_ENDED = ("Complete", "Failed", "ValidationFailed")


@dataclass(frozen=True, slots=True)
class Change:
    """What is done about one object, and in words what follows or what stands in the way."""

    what: What
    kind: str
    name: str
    words: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}: {self.words}"


def change(wished: Table, there: Table | None, would: Table | None) -> Change:
    """Decide about one object. ``would`` is what it would be; None where nothing is there."""
    kind, name = wished["kind"], wished["metadata"]["name"]
    if there is None:
        return Change("create", kind, name, "made")
    if there["metadata"].get("deletionTimestamp"):
        return Change("wait", kind, name, "an older one is being deleted")
    if there["metadata"].get("labels", {}).get(_BY) != _OWN:
        return Change(
            "refuse",
            kind,
            name,
            "there is one that raymoe did not make; give another name with --name, or delete it",
        )
    if would is None or _plain(would) == _plain(there):
        return Change("keep", kind, name, "as it is")
    if kind == "RayJob" and would.get("spec") != there.get("spec"):
        return Change("refuse", kind, name, _of_job(there, name))
    words = _of_service(there, would) if kind == "RayService" else "changed"
    return Change("change", kind, name, words)


def _of_job(there: Table, name: str) -> str:
    """Say why a job is not changed: KubeRay reads it once, when it starts."""
    ended = there.get("status", {}).get("jobDeploymentStatus") in _ENDED
    state = "has ended" if ended else "runs"
    return (
        f"it {state} with other pods, and KubeRay does not change a job; `raymoe kube delete "
        f"{name}` first (checkpoints stay, and the new job continues from them), or change a "
        "running one with `raymoe scale`"
    )


def _of_service(there: Table, would: Table) -> str:
    old, new = there["spec"], would["spec"]
    if _muted(old) == _muted(new):
        return "changed in place: the cluster goes on"
    upgrade = new.get("upgradeStrategy", {}).get("type", "NewCluster")
    if upgrade == "None":
        return "changed, but the running cluster stays as it is (service.upgrade = none)"
    if upgrade == "NewClusterWithIncrementalUpgrade":
        return "changed: a new cluster takes over the traffic in steps"
    return "changed: a new cluster starts beside the old one, so pods are needed twice meanwhile"


def _muted(spec: Table) -> Table:
    """Return the cluster of a service without what KubeRay changes in place."""
    cluster = copy.deepcopy(spec.get(CLUSTER_KEYS["RayService"], {}))
    for group in cluster.get("workerGroupSpecs", ()):
        for key in _IN_PLACE:
            group.pop(key, None)
    return dict(cluster)


def _plain(table: Table) -> Table:
    """Return an object without what the server notes about it."""
    plain = {key: value for key, value in table.items() if key != "status"}
    metadata = plain.get("metadata", {})
    plain["metadata"] = {key: value for key, value in metadata.items() if key not in _IGNORED}
    return plain
