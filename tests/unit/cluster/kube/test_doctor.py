"""``raymoe kube doctor``: a cluster that lacks something, and what is said of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kube.api import Api
from cluster.kube.doctor import RIGHTS, Finding, examine
from tests.kube.server import Store, serving
from tests.manifests.samples import deployment

ROOT = Path(__file__).parents[4]
OPTIONS = deployment(
    namespace="raymoe",
    image={"pull_secrets": ["registry"]},
    security={"service_account": "raymoe"},
    head={"node_selector": {"pool": "cpu"}},
    workers={"node_selectors": {"A100-80G": {"gpu": "a100"}}},
)

Table = dict[str, Any]


def named(name: str, **more: Any) -> Table:
    return {"apiVersion": "v1", "metadata": {"name": name}, **more}


def node(name: str, gpus: int = 0, **labels: str) -> Table:
    table = named(name, status={"allocatable": {"nvidia.com/gpu": str(gpus)} if gpus else {}})
    table["metadata"]["labels"] = labels
    return table


def operator(image: str = "quay.io/kuberay/operator:v1.7.0", ready: int = 1, *words: str) -> Table:
    spec = {"template": {"spec": {"containers": [{"image": image, "args": list(words)}]}}}
    table = named("kuberay-operator", spec=spec, status={"readyReplicas": ready})
    table["metadata"] |= {
        "namespace": "kuberay",
        "labels": {"app.kubernetes.io/name": "kuberay-operator"},
    }
    return table | {"apiVersion": "apps/v1"}


def claim(phase: str = "Bound", mode: str = "ReadWriteMany") -> Table:
    spec = {"accessModes": [mode], "storageClassName": "files"}
    return named("shared", spec=spec, status={"phase": phase})


def quota(used: str) -> Table:
    key = "requests.nvidia.com/gpu"
    return named("team", status={"hard": {key: "8"}, "used": {key: used}})


@pytest.fixture
def store() -> Store:
    """A cluster that has all that the deployment asks for."""
    found = Store()
    for plural in ("rayclusters", "rayjobs", "rayservices"):
        table = named(f"{plural}.ray.io", spec={"versions": [{"name": "v1"}]})
        found.put(table | {"apiVersion": "apiextensions.k8s.io/v1"}, "customresourcedefinitions")
    found.put(operator(), "deployments")
    found.put(claim(), "persistentvolumeclaims")
    found.put(named("registry"), "secrets")
    found.put(named("raymoe"), "serviceaccounts")
    found.put(node("a", pool="cpu"), "nodes")
    found.put(node("b", 8, gpu="a100"), "nodes")
    found.put(quota("0"), "resourcequotas")
    return found


@pytest.fixture
def api(store: Store) -> Iterator[Api]:
    with serving(store) as found:
        yield found


def examined(api: Api) -> dict[str, Finding]:
    return {each.what: each for each in examine(api, OPTIONS)}


def test_a_cluster_that_has_everything_passes(api: Api) -> None:
    found = examined(api)
    assert [each for each in found.values() if each.good is not True] == []
    assert found["nodes for ranks on A100-80G"].found == "1 of 2 nodes have gpu=a100, 8 GPUs"
    assert found["API server"].found.startswith("v1.37.0 at http://127.0.0.1")


def gone(plural: str, name: str) -> Callable[[Store], None]:
    def remove(store: Store) -> None:
        store.remove(next(key for key in store.objects if key[1] == plural and key[3] == name))

    return remove


def there(table: Table, plural: str) -> Callable[[Store], Any]:
    return lambda store: store.put(table, plural)


@pytest.mark.parametrize(
    ("harm", "what", "found", "remedy"),
    [
        (
            gone("customresourcedefinitions", "rayjobs.ray.io"),
            "definition of rayjobs",
            "not installed",
            "install KubeRay",
        ),
        (gone("deployments", "kuberay-operator"), "operator", "no deployment", "install KubeRay"),
        (there(operator(ready=0), "deployments"), "operator runs", "0 ready", "see the log"),
        (
            there(operator("kuberay/operator:v1.3.2"), "deployments"),
            "operator version",
            "1.3.2",
            "rendered for KubeRay 1.7",
        ),
        (
            there(operator("o:v1.7.0", 1, "--watch-namespace=a,b"), "deployments"),
            "operator watches",
            "a, b",
            "add raymoe to --watch-namespace",
        ),
        (gone("persistentvolumeclaims", "shared"), "claim shared", "not there", "make it"),
        (
            there(claim("Pending"), "persistentvolumeclaims"),
            "claim shared",
            "Pending",
            "a StorageClass that exists",
        ),
        (gone("secrets", "registry"), "Secret registry", "not there", "in namespace raymoe"),
        (gone("serviceaccounts", "raymoe"), "ServiceAccount raymoe", "not there", "make it"),
        (gone("nodes", "b"), "nodes for ranks on A100-80G", "0 of 1 nodes", "label nodes"),
        (there(quota("8"), "resourcequotas"), "quota team", "8 of 8", "is used up"),
    ],
)
def test_what_is_wrong_is_found_with_its_remedy(
    api: Api, store: Store, harm: Callable[[Store], Any], what: str, found: str, remedy: str
) -> None:
    harm(store)
    said = examined(api)
    assert [each.what for each in said.values() if each.good is False] == [what]
    assert found in said[what].found
    assert remedy in said[what].remedy


def test_a_claim_of_one_node_is_a_caution_and_one_that_waits_for_its_pod_is_well(
    api: Api, store: Store
) -> None:
    store.put(claim("Pending", "ReadWriteOnce"), "persistentvolumeclaims")
    table = named("files", volumeBindingMode="WaitForFirstConsumer")
    store.put(table | {"apiVersion": "storage.k8s.io/v1"}, "storageclasses")
    said = examined(api)
    assert said["claim shared"].good is True
    assert "bound with its first pod" in said["claim shared"].found
    assert said["access mode of shared"].good is None


def test_rights_that_are_lacking_are_listed(api: Api, store: Store) -> None:
    store.forbidden = {("create", "rayjobs"), ("create", "pods/portforward")}
    found = examined(api)["rights"]
    assert found.found == "lacking: create rayjobs, create pods/portforward"
    assert "manifests/base/rights.yaml in namespace raymoe" in found.remedy


def test_what_may_not_be_read_is_unknown_and_the_rest_is_examined(api: Api, store: Store) -> None:
    store.forbidden = {("list", "nodes"), ("get", "customresourcedefinitions")}
    said = examined(api)
    unknown = [each.what for each in said.values() if each.good is None]
    assert unknown == ["definitions", "nodes"]
    assert said["rights"].good is True


def test_the_role_of_the_repository_grants_what_is_asked_for() -> None:
    text = (ROOT / "manifests" / "base" / "rights.yaml").read_text(encoding="utf-8")
    (role,) = [each for each in yaml.safe_load_all(text) if each["kind"] == "Role"]
    granted = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    asked = {(group, resource, verb) for group, resource, verbs in RIGHTS for verb in verbs}
    assert asked <= granted
