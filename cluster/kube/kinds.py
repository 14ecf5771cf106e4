"""The kinds of objects that raymoe reads and writes, and where the API server keeps them."""

from dataclasses import dataclass

from moe.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: its name, its group and version, and its name in paths."""

    name: str
    version: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The API group; empty for the core."""
        return self.version.rpartition("/")[0]

    def path(self, namespace: str | None, name: str | None = None) -> str:
        """Return the path of one object, or of all in a namespace, or of all there are."""
        root = f"/apis/{self.version}" if self.group else f"/api/{self.version}"
        inside = f"/namespaces/{namespace}" if self.namespaced and namespace is not None else ""
        return f"{root}{inside}/{self.plural}" + (f"/{name}" if name else "")


RAYJOB = Kind("RayJob", "ray.io/v1", "rayjobs")
RAYSERVICE = Kind("RayService", "ray.io/v1", "rayservices")
RAYCLUSTER = Kind("RayCluster", "ray.io/v1", "rayclusters")
CONFIG_MAP = Kind("ConfigMap", "v1", "configmaps")
BUDGET = Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets")
POD = Kind("Pod", "v1", "pods")
EVENT = Kind("Event", "v1", "events")
SECRET = Kind("Secret", "v1", "secrets")
CLAIM = Kind("PersistentVolumeClaim", "v1", "persistentvolumeclaims")
QUOTA = Kind("ResourceQuota", "v1", "resourcequotas")
ACCOUNT = Kind("ServiceAccount", "v1", "serviceaccounts")
NODE = Kind("Node", "v1", "nodes", namespaced=False)
STORAGE_CLASS = Kind("StorageClass", "storage.k8s.io/v1", "storageclasses", namespaced=False)
DEFINITION = Kind(
    "CustomResourceDefinition",
    "apiextensions.k8s.io/v1",
    "customresourcedefinitions",
    namespaced=False,
)
LOCAL_QUEUE = Kind("LocalQueue", "kueue.x-k8s.io/v1beta1", "localqueues")
DEPLOYMENT = Kind("Deployment", "apps/v1", "deployments")

APPLIED = {each.name: each for each in (CONFIG_MAP, BUDGET, RAYJOB, RAYSERVICE)}
"""The kinds that ``raymoe kube apply`` writes; others are for kubectl."""


def kind_of(table: dict[str, object]) -> Kind:
    """Return the kind of an object that is to be applied."""
    name = str(table.get("kind"))
    if name not in APPLIED or table.get("apiVersion") != APPLIED[name].version:
        raise ConfigError(
            f"{table.get('apiVersion')} {name} is not what raymoe renders ({', '.join(APPLIED)}); "
            "apply such objects with `kubectl apply -k`"
        )
    return APPLIED[name]
