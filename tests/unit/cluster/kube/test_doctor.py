"""``raymoe kube doctor``: a cluster that lacks something, and what is said of it."""

import base64
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kube.api import Api
from cluster.kube.checks.finding import Finding
from cluster.kube.checks.kuberay import NEWEST_FIELDS
from cluster.kube.checks.names import PROBE_RIGHTS, RIGHTS, registry_of
from cluster.kube.checks.quotas import needed
from cluster.kube.doctor import examine
from cluster.kube.kinds import LOCAL_QUEUE
from tests.kube.installed import definition, dns, install, named, operator
from tests.kube.server import Store, serving
from tests.manifests.samples import ON_GPUS, deployment, job, two_stages

ROOT = Path(__file__).parents[4]
OPTIONS = deployment(
    namespace="raymoe",
    image={"pull_secrets": ["registry"]},
    security={"service_account": "raymoe"},
    head={"node_selector": {"pool": "cpu"}},
    workers={"node_selectors": {"A100-80G": {"gpu": "a100"}}},
)

ROCKSDB = {"backend": "rocksdb", "rocksdb_gib": 10}
GATE = "feature gate GCSFaultToleranceEmbeddedStorage"

Table = dict[str, Any]


def node(name: str, gpus: int = 0, **labels: str) -> Table:
    table = named(name, status={"allocatable": {"nvidia.com/gpu": str(gpus)} if gpus else {}})
    table["metadata"]["labels"] = labels
    return table


def registry(host: str = "registry.example", kind: str = "kubernetes.io/dockerconfigjson") -> Table:
    auths = json.dumps({"auths": {host: {"auth": "x"}}})
    data = {".dockerconfigjson": base64.b64encode(auths.encode()).decode()}
    return named("registry", type=kind, data=data)


def storage_class(name: str = "files", default: bool = False, **more: Any) -> Table:
    table = named(name, **({"provisioner": "nfs.csi.k8s.io"} | more))
    if default:
        key = "storageclass.kubernetes.io/is-default-class"
        table["metadata"]["annotations"] = {key: "true"}
    return table | {"apiVersion": "storage.k8s.io/v1"}


def older(plural: str) -> Table:
    table = copy.deepcopy(definition(plural))
    spec = table["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"][NEWEST_FIELDS[plural][0]]
    return table


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
    install(found)
    found.put(claim(), "persistentvolumeclaims")
    found.put(registry(), "secrets")
    found.put(storage_class(), "storageclasses")
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
        (there(operator(ready=0), "deployments"), "operator runs", "0 ready", "see its log"),
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
            "its StorageClass must exist",
        ),
        (
            there(older("rayjobs"), "customresourcedefinitions"),
            "fields of rayjobs",
            "spec.preRunningDeadlineSeconds is not among them",
            "replace the definitions (helm leaves old ones)",
        ),
        (there(dns(ready=False), "pods"), "DNS", "0 of 1 pods", "pods find Ray's head by its name"),
        (
            there(registry("other.example"), "secrets"),
            "pull secrets",
            "none is for registry.example",
            "add the credentials of that registry",
        ),
        (
            there(registry(kind="Opaque"), "secrets"),
            "Secret registry",
            "of type Opaque",
            "kubectl create secret docker-registry registry -n raymoe",
        ),
        (gone("secrets", "registry"), "Secret registry", "not there", "--docker-server"),
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
    store.put(storage_class(volumeBindingMode="WaitForFirstConsumer"), "storageclasses")
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
    every = (*RIGHTS, *PROBE_RIGHTS)
    asked = {(group, resource, verb) for group, resource, verbs in every for verb in verbs}
    assert asked <= granted


def classes(store: Store, *tables: Table) -> None:
    """Have these storage classes, and a claim that waits for its volume."""
    gone("storageclasses", "files")(store)
    for table in tables:
        store.put(table, "storageclasses")


@pytest.mark.parametrize(
    ("named_class", "there_are", "said"),
    [
        ("files", [storage_class("fast")], ("storage class files", "not there, but claim", "fast")),
        (None, [storage_class("fast")], ("storage class", "none is the default", "(fast)")),
        (None, [], ("storage class", "names none", "(none)")),
        (
            "files",
            [storage_class(provisioner="ebs.csi.aws.com")],
            (
                "storage class files",
                "made by ebs.csi.aws.com",
                "it makes volumes for one node, and claim shared is ReadWriteMany",
            ),
        ),
    ],
)
def test_a_claim_that_gets_no_volume_says_what_of_its_class_is_wrong(
    api: Api,
    store: Store,
    named_class: str | None,
    there_are: list[Table],
    said: tuple[str, str, str],
) -> None:
    classes(store, *there_are)
    table = claim("Pending")
    table["spec"]["storageClassName"] = named_class
    store.put(table, "persistentvolumeclaims")
    every, (what, found, remedy) = examined(api), said
    assert every["claim shared"].good is every[what].good is False
    assert found in every[what].found
    assert remedy in every[what].remedy


def test_a_claim_of_the_default_class_that_waits_for_its_pod_is_well(
    api: Api, store: Store
) -> None:
    waiting = storage_class("slow", default=True, volumeBindingMode="WaitForFirstConsumer")
    classes(store, storage_class("fast"), waiting)
    table = claim("Pending")
    del table["spec"]["storageClassName"]
    store.put(table, "persistentvolumeclaims")
    said = examined(api)
    assert said["claim shared"].good is said["storage class slow"].good is True


def test_who_may_not_read_classes_hears_of_the_claim_all_the_same(api: Api, store: Store) -> None:
    store.put(claim("Pending"), "persistentvolumeclaims")
    store.forbidden = {("list", "storageclasses")}
    assert examined(api)["claim shared"].good is False


@pytest.mark.parametrize(
    ("sections", "words", "what", "good"),
    [
        ({"recovery": ROCKSDB}, (), "feature gate GCSFaultToleranceEmbeddedStorage", False),
        ({"recovery": ROCKSDB}, ("--config=/etc/c.yaml",), GATE, None),
        (
            {"recovery": ROCKSDB},
            ("--feature-gates=A=false,GCSFaultToleranceEmbeddedStorage=true",),
            GATE,
            True,
        ),
        (
            {"monitoring": {"history_image": "c:1"}},
            (),
            "feature gate RayClusterHistoryServer",
            False,
        ),
        ({"queue": {"scheduler": "volcano", "name": "q"}}, (), "operator's scheduler", False),
        (
            {"queue": {"scheduler": "volcano", "name": "q"}},
            ("--batch-scheduler=volcano",),
            "operator's scheduler",
            True,
        ),
    ],
)
def test_what_a_deployment_asks_of_the_operator_is_looked_for_in_its_words(
    api: Api, store: Store, sections: Table, words: tuple[str, ...], what: str, good: bool | None
) -> None:
    store.put(operator("kuberay/operator:v1.7.0", 1, *words), "deployments")
    found = {each.what: each for each in examine(api, deployment(namespace="raymoe", **sections))}
    assert found[what].good is good


def test_the_version_of_an_operator_is_that_of_its_tag(api: Api, store: Store) -> None:
    digest = "@sha256:" + 64 * "0"
    for image, good in (
        (f"registry.example:5000/kuberay/operator:v1.7.1{digest}", True),
        (f"registry.example:5000/kuberay/operator{digest}", None),
        ("operator:nightly", None),
        ("operator:v1.6.9", False),
    ):
        store.put(operator(image), "deployments")
        assert examined(api)["operator version"].good is good, image


@pytest.mark.parametrize(
    ("status", "good", "words"),
    [
        (None, False, "no LocalQueue of Kueue"),
        ({"type": "Active", "status": "True", "message": "Can submit"}, True, "Can submit"),
        ({"type": "Active", "status": "False", "message": "no ClusterQueue"}, False, "no Cluster"),
    ],
)
def test_the_queue_of_kueue_must_be_there_and_active(
    api: Api, store: Store, status: Table | None, good: bool, words: str
) -> None:
    if status is not None:
        table = named("team", spec={"clusterQueue": "gpus"}, status={"conditions": [status]})
        store.put(table | {"apiVersion": LOCAL_QUEUE.version}, "localqueues")
    options = deployment(namespace="raymoe", queue={"name": "team"})
    found = {each.what: each for each in examine(api, options)}["queue team"]
    assert found.good is good
    assert words in found.found


def test_a_quota_that_is_too_small_for_the_objects_says_by_how_much(api: Api, store: Store) -> None:
    objects = [job(two_stages(("A100", "A100")), ON_GPUS)]
    key, memory = "requests.nvidia.com/gpu", "limits.memory"
    for most, short in (({key: "4"}, None), ({key: "3"}, f"{key}: 4 asked, 3 left")):
        store.put(named("team", status={"hard": most, "used": {}}), "resourcequotas")
        found = {each.what: each for each in examine(api, OPTIONS, objects)}["quota team"]
        assert found.good is (short is None)
        assert short is None or short in found.remedy
    wanted = needed(objects)
    assert wanted["pods"] == 5  # head, driver, two of ranks, submitter
    assert wanted[key] == wanted["limits.nvidia.com/gpu"] == 4
    assert wanted["memory"] == wanted["requests.memory"] == wanted[memory] > 2**33


def test_the_host_of_an_image_is_its_registry() -> None:
    for image, host in (
        ("raymoe:0.1.0", "docker.io"),
        ("team/raymoe:0.1.0", "docker.io"),
        ("registry.example/team/raymoe:0.1.0", "registry.example"),
        ("localhost:5000/raymoe:0.1.0", "localhost:5000"),
    ):
        assert registry_of(image) == host
