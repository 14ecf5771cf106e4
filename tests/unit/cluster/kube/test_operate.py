"""Applying, deleting and asking, on a server in memory that checks by KubeRay's definitions."""

import base64
import copy
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.kube import operate
from cluster.kube.api import TRIES, Api, Refusal, in_words
from cluster.kube.kinds import POD, RAYJOB, RAYSERVICE
from cluster.kube.observed import kind_there, observe
from cluster.kube.standing import standing
from cluster.kuberay.objects import config_map, head_guard, rayjob
from cluster.kuberay.scheduling import TRAINING
from cluster.kuberay.work import PLAN_FILE, RUN_FILE, Work
from moe.errors import ClusterError, ConfigError
from tests.kube.server import Store, serving
from tests.kube.tables import cluster, pod
from tests.manifests.samples import BYTES, deployment, two_stages
from tests.manifests.schema import with_defaults

Table = dict[str, Any]

WORK = Work(two_stages(), BYTES, {RUN_FILE: "name = 'demo'\n", PLAN_FILE: "# a plan\n"})
OPTIONS = deployment(namespace="raymoe")
OBJECTS = [
    config_map(WORK, OPTIONS, "demo", TRAINING),
    head_guard(OPTIONS, "demo", TRAINING),
    rayjob(WORK, OPTIONS, "demo"),
]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def api(store: Store) -> Iterator[Api]:
    with serving(store) as found:
        yield found


def applied(api: Api, tables: list[Table] = OBJECTS, seconds: float = 5) -> list[str]:
    said: list[str] = []
    operate.apply(api, tables, said.append, seconds)
    return said


def test_what_is_applied_is_there_and_applied_twice_nothing_changes(api: Api, store: Store) -> None:
    assert applied(api) == [
        "ConfigMap/demo-training: made",
        "PodDisruptionBudget/demo-training-head: made",
        "RayJob/demo: made",
    ]
    assert store.find("rayjobs", "demo")["spec"] == with_defaults(OBJECTS[2])["spec"]
    before, version = copy.deepcopy(store.objects), store.version
    assert all(each.endswith("as it is") for each in applied(api))
    assert (store.objects, store.version) == (before, version)


def test_what_others_own_of_an_object_stays_theirs(api: Api, store: Store) -> None:
    applied(api)
    theirs = copy.deepcopy(store.find("rayjobs", "demo"))
    theirs["spec"]["suspend"] = True
    theirs["metadata"]["annotations"] = {"kueue.x-k8s.io/x": "y"}
    store.put(theirs, "rayjobs")
    assert all(each.endswith("as it is") for each in applied(api))
    assert store.find("rayjobs", "demo")["spec"]["suspend"] is True


def test_unknown_fields_are_refused_before_anything_is_stored(api: Api, store: Store) -> None:
    wrong = copy.deepcopy(OBJECTS[2])
    wrong["spec"]["entryPoint"] = "x"
    with pytest.raises(Refusal, match=r"unknown field \.spec\.entryPoint"):
        applied(api, [wrong])
    assert store.objects == {}


def test_one_object_that_stands_in_the_way_keeps_all_from_being_applied(
    api: Api, store: Store
) -> None:
    store.put({"apiVersion": "v1", "metadata": {"name": "demo-training"}, "data": {}}, "configmaps")
    before = copy.deepcopy(store.objects)
    with pytest.raises(ConfigError, match=r"nothing was applied:\n  ConfigMap/demo-training"):
        applied(api)
    assert store.objects == before


def test_a_job_is_not_changed_while_it_runs(api: Api, store: Store) -> None:
    applied(api)
    other = rayjob(WORK, deployment(namespace="raymoe", job={"retries": 7}), "demo")
    with pytest.raises(ConfigError, match="RayJob/demo: it runs with other pods"):
        applied(api, [other])
    assert store.find("rayjobs", "demo")["spec"]["backoffLimit"] == 0


def test_an_object_that_goes_is_waited_for_and_then_made_again(api: Api, store: Store) -> None:
    applied(api)
    key = next(key for key in store.objects if key[1] == "rayjobs")
    store.objects[key]["metadata"] |= {"deletionTimestamp": "x", "finalizers": ["ray.io/a"]}
    with pytest.raises(ClusterError, match=r"still there after 0 s \(ray\.io/a holds it\)"):
        applied(api, seconds=0)
    thread = threading.Timer(0.3, lambda: store.remove(key))
    thread.start()
    assert applied(api)[-1] == "RayJob/demo: an older one is being deleted"
    assert "deletionTimestamp" not in store.find("rayjobs", "demo")["metadata"]


@pytest.mark.parametrize("faults", [[500], [503, -1], [-1, -1, 429]])
def test_a_server_that_is_lost_for_a_moment_is_asked_again(
    api: Api, store: Store, faults: list[int]
) -> None:
    applied(api)
    version = store.version
    store.faults = list(faults)
    assert all(each.endswith("as it is") for each in applied(api))
    assert store.version == version
    assert store.faults == []


def test_an_answer_that_is_lost_makes_nothing_twice(api: Api, store: Store) -> None:
    """The server does what it was told, and the connection breaks before it says so."""
    store.faults = [0, 0, 0, -1]
    applied(api)
    assert len(store.objects) == 3


def test_a_server_that_stays_away_is_an_error_in_words(api: Api, store: Store) -> None:
    store.faults = [-1] * TRIES
    with pytest.raises(ClusterError, match=f"did not answer {TRIES} times"):
        applied(api)
    assert store.objects == {}


def test_a_right_that_is_lacking_is_named(api: Api, store: Store) -> None:
    store.forbidden = {("patch", "rayjobs")}
    with pytest.raises(Refusal) as caught:
        applied(api, [OBJECTS[2]])
    said = str(in_words(caught.value))
    assert 'cannot patch resource "rayjobs"; ask for that right: manifests/base/rights.yaml' in said


def test_a_cluster_without_kuberay_says_so(api: Api, store: Store) -> None:
    store.missing = {"rayjobs"}
    with pytest.raises(Refusal) as caught:
        applied(api, [OBJECTS[2]])
    assert "knows no objects of KubeRay; install its operator" in str(in_words(caught.value))


def test_a_letter_of_a_log_may_lie_in_two_chunks(api: Api, store: Store) -> None:
    text = "x" * (2**14 - 1) + "\u00e9"
    store.put(pod("a", "head"), "pods")
    store.logs = {"a": f"{text}\nend"}
    assert list(api.log("raymoe", "a", {})) == [text, "end"]


def test_a_deleted_run_leaves_nothing(api: Api, store: Store) -> None:
    applied(api)
    owner = {"ownerReferences": [{"uid": store.find("rayjobs", "demo")["metadata"]["uid"]}]}
    table = pod("demo-head", "head")
    table["metadata"] |= owner
    store.put(table, "pods")
    other = pod("other", "head")
    other["metadata"]["labels"]["raymoe/run"] = "other"
    store.put(other, "pods")
    said: list[str] = []
    operate.delete(api, RAYJOB, "raymoe", "demo", said.append, 5)
    assert [key[1:] for key in store.objects] == [("pods", "raymoe", "other")]
    assert said == ["RayJob/demo: its pods are ending", "RayJob/demo: deleted"]
    operate.delete(api, RAYJOB, "raymoe", "demo", said.append, 5)


def test_what_is_observed_is_of_this_run_alone(api: Api, store: Store) -> None:
    applied(api)
    table = store.find("rayjobs", "demo")
    table["status"] = {"jobStatus": "RUNNING", "rayClusterName": "demo-abcde"}
    store.put(cluster(), "rayclusters")
    store.put(pod("demo-head", "head"), "pods")
    store.put(pod("demo-serving", "head", component="serving"), "pods")
    found = observe(api, RAYJOB, "raymoe", "demo")
    assert [each["metadata"]["name"] for each in found.pods] == ["demo-head"]
    assert found.cluster is not None
    assert str(standing(found)) == "running (1 of 3 pods)"


def test_lists_come_in_pages(api: Api, store: Store) -> None:
    for number in range(1201):
        store.put(pod(f"p-{number:04d}", "rank"), "pods")
    found = api.every(POD, "raymoe", "raymoe/run=demo")
    assert [each["metadata"]["name"] for each in found] == [f"p-{n:04d}" for n in range(1201)]


def test_the_token_is_that_of_the_cluster_or_of_the_secret_it_names(api: Api, store: Store) -> None:
    applied(api)
    store.find("rayjobs", "demo")["status"] = {"rayClusterName": "demo-abcde"}
    with pytest.raises(ClusterError, match="has no Ray cluster yet"):
        operate.token(api, "raymoe", observe(api, RAYJOB, "raymoe", "demo"))
    store.put(cluster(), "rayclusters")
    seen = observe(api, RAYJOB, "raymoe", "demo")
    with pytest.raises(ClusterError, match="Secret demo-abcde with the token of demo is not there"):
        operate.token(api, "raymoe", seen)
    for name, secret in (("demo-abcde", "made"), ("ours", "kept")):
        data = {"auth_token": base64.b64encode(secret.encode()).decode()}
        store.put({"apiVersion": "v1", "metadata": {"name": name}, "data": data}, "secrets")
    assert operate.token(api, "raymoe", seen) == "made"
    store.find("rayclusters", "demo-abcde")["spec"]["authOptions"]["secretName"] = "ours"
    assert operate.token(api, "raymoe", observe(api, RAYJOB, "raymoe", "demo")) == "kept"


def test_a_name_may_be_of_a_run_and_of_a_server(api: Api, store: Store) -> None:
    with pytest.raises(ConfigError, match="has no RayJob or RayService called demo"):
        kind_there(api, "raymoe", "demo")
    applied(api)
    assert kind_there(api, "raymoe", "demo") == RAYJOB
    with pytest.raises(ConfigError, match="has no RayService called demo"):
        kind_there(api, "raymoe", "demo", service=True)
    store.put({"apiVersion": "ray.io/v1", "metadata": {"name": "demo"}}, "rayservices")
    with pytest.raises(ConfigError, match="is a RayJob and a RayService"):
        kind_there(api, "raymoe", "demo")
    assert kind_there(api, "raymoe", "demo", service=True) == RAYSERVICE


def test_a_log_is_read_line_by_line(api: Api, store: Store) -> None:
    store.put(pod("demo-submit", "submitter"), "pods")
    store.logs["demo-submit"] = "a\nb\nüc"
    assert list(api.log("raymoe", "demo-submit", {})) == ["a", "b", "üc"]
    assert list(api.log("raymoe", "demo-submit", {"tailLines": "1"})) == ["üc"]
