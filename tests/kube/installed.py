"""What a cluster has into which KubeRay was installed, as far as raymoe looks at it."""

from typing import Any

from tests.kube.server import Store
from tests.manifests.definitions import PLURALS
from tests.manifests.definitions import definition as schema_of

Table = dict[str, Any]


def install(store: Store) -> None:
    """Put KubeRay's definitions and its operator into a cluster, and a DNS server that runs."""
    for plural in PLURALS.values():
        store.put(definition(plural), "customresourcedefinitions")
    store.put(operator(), "deployments")
    store.put(dns(), "pods")


def named(name: str, **more: Any) -> Table:
    return {"apiVersion": "v1", "metadata": {"name": name}, **more}


def definition(plural: str) -> Table:
    """Return a definition of KubeRay 1.7, as the server has it."""
    (kind,) = [kind for kind, each in PLURALS.items() if each == plural]
    version = {"name": "v1", "schema": {"openAPIV3Schema": schema_of(kind)}}
    table = named(f"{plural}.ray.io", spec={"versions": [version]})
    return table | {"apiVersion": "apiextensions.k8s.io/v1"}


def operator(image: str = "quay.io/kuberay/operator:v1.7.0", ready: int = 1, *words: str) -> Table:
    spec = {"template": {"spec": {"containers": [{"image": image, "args": list(words)}]}}}
    table = named("kuberay-operator", spec=spec, status={"readyReplicas": ready})
    table["metadata"] |= {
        "namespace": "kuberay",
        "labels": {"app.kubernetes.io/name": "kuberay-operator"},
    }
    return table | {"apiVersion": "apps/v1"}


def dns(ready: bool = True) -> Table:
    conditions = [{"type": "Ready", "status": str(ready)}]
    table = named("coredns-0", status={"conditions": conditions})
    table["metadata"] |= {"namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
    return table
