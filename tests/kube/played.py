"""KubeRay as a test plays it: the pods of one group of a Ray cluster follow its size.

It acts when it is told a line, as those who resize tell them while they wait. Where nothing says
which pods are to go, it takes the first; pods with ranks may not go.
"""

from collections.abc import Callable, Collection
from typing import Any

from cluster.kuberay.deployment import Deployment
from moe.planning.plan.plan import Plan
from tests.kube.server import Store
from tests.kube.tables import job, pod
from tests.manifests.samples import cluster

Table = dict[str, Any]

JOB = "demo"
_CLUSTER = "demo-abcde"
_GROUP = "cpu-0"


class PlayedPods:
    """The pods of the group ``cpu-0`` of a RayJob; nodes have room for ``room`` of them.

    ``busy`` says which have ranks, by their names; ``address`` gives each its own.
    """

    def __init__(
        self, store: Store, busy: Callable[[], Collection[str]], address: Callable[[int], str]
    ) -> None:
        self._store = store
        self._busy = busy
        self._address = address
        self._made = 0
        self.room = 99
        self.lines: list[str] = []

    def begin(self, plan: Plan, options: Deployment) -> None:
        """Have the cluster of a plan, whose pods run, and its job too."""
        self._store.put(cluster(plan, options, (2**30,) * plan.ranks), "rayclusters")
        status = {"rayClusterName": _CLUSTER, "jobStatus": "RUNNING"}
        self._store.put(job(status), "rayjobs")
        for _ in range(self.group["maxReplicas"]):
            self._make()

    @property
    def cluster(self) -> Table:
        return self._store.find("rayclusters", _CLUSTER)

    @property
    def group(self) -> Table:
        groups = self.cluster["spec"]["workerGroupSpecs"]
        (found,) = [each for each in groups if each["groupName"] == _GROUP]
        return dict(found)

    @property
    def names(self) -> list[str]:
        """The pods of the group, the oldest first."""
        pods = [name for _, plural, _, name in self._store.objects if plural == "pods"]
        return [name for name in pods if name.startswith("p")]

    def address_of(self, name: str) -> str:
        return str(self._store.find("pods", name)["status"]["podIP"])

    def tell(self, line: str) -> None:
        """Note a line, and let pods come and go."""
        self.lines.append(line)
        group, floats = self.group, bool(self.cluster["spec"]["enableInTreeAutoscaling"])
        for name in group["scaleStrategy"]["workersToDelete"]:
            if name in self.names:
                self._end(name)
        target = max(group.get("replicas", 0), group["minReplicas"])
        while len(self.names) < min(target, self.room):
            self._make()
        while not floats and len(self.names) > target:
            self._end(self.names[0])
        idle = [name for name in self.names if name not in self._busy()]
        while floats and len(self.names) > group["maxReplicas"]:
            self._end(idle.pop())

    def _make(self) -> None:
        self._made += 1
        table = pod(f"p{self._made}", "rank", podIP=self._address(self._made))
        table["metadata"]["labels"]["ray.io/group"] = _GROUP
        self._store.put(table, "pods")

    def _end(self, name: str) -> None:
        assert name not in self._busy(), f"{name} ended with its ranks"
        keys = [key for key in self._store.objects if key[1] == "pods" and key[3] == name]
        self._store.remove(keys[0])
