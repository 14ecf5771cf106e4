"""The API server in memory itself, asked by the official client as controllers ask a real one."""

import copy
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

from cluster.kube.api import Api
from cluster.kube.kinds import POD, RAYCLUSTER
from tests.kube.objects import Objects
from tests.kube.server import Store, serving
from tests.kube.tables import pod
from tests.manifests.samples import ON_CPUS, job, two_stages

Table = dict[str, Any]

SPEC = job(two_stages(), ON_CPUS)["spec"]["rayClusterSpec"]
OF_CLUSTERS = {"group": "ray.io", "version": "v1", "namespace": "raymoe", "plural": "rayclusters"}


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def api(store: Store) -> Iterator[Api]:
    with serving(store) as found:
        yield found


@pytest.fixture
def objects(api: Api) -> Objects:
    return Objects(api.client, "raymoe")


@pytest.fixture
def custom(api: Api) -> Any:
    return client.CustomObjectsApi(api.client)


def a_cluster(name: str = "a", **spec: Any) -> Table:
    return {"metadata": {"name": name}, "spec": copy.deepcopy(SPEC) | spec}


def patch(custom: Any, body: Any, content: str = "json-patch+json", **words: Any) -> Table:
    return dict(
        custom.patch_namespaced_custom_object(
            **OF_CLUSTERS, name="a", body=body, _content_type=f"application/{content}", **words
        )
    )


def seen(custom: Any, most: int, **words: Any) -> list[tuple[str, str]]:
    """Return types and names of the first events of a watch."""
    found: list[tuple[str, str]] = []
    watching = watch.Watch()
    for event in watching.stream(
        custom.list_namespaced_custom_object, **OF_CLUSTERS, timeout_seconds=10, **words
    ):
        metadata = event["object"]["metadata"]
        found.append((event["type"], metadata.get("name", metadata["resourceVersion"])))
        if len(found) == most:
            watching.stop()
            break
    return found


def test_a_watch_begins_with_what_is_there_and_goes_on(
    custom: Any, objects: Objects, store: Store
) -> None:
    objects.create(RAYCLUSTER, a_cluster())
    store.put(pod("p", "rank"), "pods")

    def later() -> None:
        objects.create(RAYCLUSTER, a_cluster("b"))
        objects.status(RAYCLUSTER, "a", {"state": "ready"})
        objects.delete(RAYCLUSTER, "b")

    threading.Timer(0.3, later).start()
    assert seen(custom, 4) == [
        ("ADDED", "a"),
        ("ADDED", "b"),
        ("MODIFIED", "a"),
        ("DELETED", "b"),
    ]


def test_a_watch_from_a_version_tells_what_came_after_it(custom: Any, objects: Objects) -> None:
    objects.create(RAYCLUSTER, a_cluster())
    version = custom.list_namespaced_custom_object(**OF_CLUSTERS)["metadata"]["resourceVersion"]
    objects.create(RAYCLUSTER, a_cluster("b"))
    assert seen(custom, 1, resource_version=version) == [("ADDED", "b")]


def test_bookmarks_say_how_far_a_silent_watch_has_come(
    custom: Any, objects: Objects, store: Store
) -> None:
    objects.create(RAYCLUSTER, a_cluster())
    store.put(pod("p", "rank"), "pods")
    told = seen(custom, 2, allow_watch_bookmarks=True)
    assert told == [("ADDED", "a"), ("BOOKMARK", str(store.version))]


def test_a_version_that_is_forgotten_is_gone(custom: Any, objects: Objects, store: Store) -> None:
    for name in ("a", "b"):
        objects.create(RAYCLUSTER, a_cluster(name))
    version = str(store.version - 1)
    store.forget()
    with pytest.raises(ApiException, match="Expired: too old resource version") as caught:
        seen(custom, 1, resource_version=version)
    assert caught.value.status == 410
    assert seen(custom, 2) == [("ADDED", "a"), ("ADDED", "b")]


def test_what_is_not_said_has_the_defaults_of_the_definition(objects: Objects) -> None:
    table = a_cluster()
    for group in table["spec"]["workerGroupSpecs"]:
        group.pop("replicas", None)
    made = objects.create(RAYCLUSTER, table)
    group = made["spec"]["workerGroupSpecs"][0]
    assert (group["replicas"], group["numOfHosts"]) == (0, 1)


def test_unknown_fields_are_dropped_unless_the_client_is_strict(
    custom: Any, objects: Objects
) -> None:
    assert "colour" not in objects.create(RAYCLUSTER, a_cluster(colour="red"))["spec"]
    with pytest.raises(ApiException, match="strict decoding error"):
        patch(custom, {"spec": {"colour": "red"}}, "merge-patch+json", field_validation="Strict")


def test_rules_compare_with_what_was_there(custom: Any, objects: Objects) -> None:
    objects.create(RAYCLUSTER, a_cluster(managedBy="ray.io/kuberay-operator"))
    with pytest.raises(ApiException, match="managedBy field is immutable") as caught:
        patch(custom, {"spec": {"managedBy": "kueue.x-k8s.io/multikueue"}}, "merge-patch+json")
    assert caught.value.status == 422


def test_a_patch_of_operations_holds_whole_or_not_at_all(custom: Any, objects: Objects) -> None:
    made = objects.create(RAYCLUSTER, a_cluster())
    path = "/spec/workerGroupSpecs/1"
    size = {"op": "replace", "path": f"{path}/replicas", "value": 7}
    test = {"op": "test", "path": f"{path}/groupName", "value": "cpu-0"}
    changed = patch(custom, [test, size])
    assert changed["spec"]["workerGroupSpecs"][1]["replicas"] == 7
    assert changed["metadata"]["generation"] == made["metadata"]["generation"] + 1
    with pytest.raises(ApiException, match="the test of a patch failed"):
        patch(custom, [size | {"value": 8}, test | {"value": "gpu-0"}])
    with pytest.raises(ApiException, match="does not fit"):
        patch(custom, [size | {"path": "/spec/workerGroupSpecs/9/replicas"}])
    with pytest.raises(ApiException, match="is not of type 'integer'"):
        patch(custom, [size | {"value": "8"}])
    assert objects.get(RAYCLUSTER, "a") == changed


def test_status_and_the_rest_are_written_apart(custom: Any, objects: Objects) -> None:
    made = objects.create(RAYCLUSTER, a_cluster())
    objects.status(RAYCLUSTER, "a", {"state": "ready"})
    assert (
        objects.change(RAYCLUSTER, "a", {"status": {"state": "failed"}})["status"]["state"]
        == "ready"
    )
    same = objects.status(RAYCLUSTER, "a", {"state": "ready"})
    told = objects.get(RAYCLUSTER, "a")
    assert told == same
    assert told["spec"] == made["spec"]
    assert told["metadata"]["generation"] == 1


def test_what_was_read_before_a_change_does_not_replace_it(custom: Any, objects: Objects) -> None:
    read = objects.create(RAYCLUSTER, a_cluster())
    objects.change(RAYCLUSTER, "a", {"metadata": {"labels": {"a": "b"}}})
    with pytest.raises(ApiException) as caught:
        custom.replace_namespaced_custom_object(**OF_CLUSTERS, name="a", body=read)
    assert caught.value.status == 409
    fresh = objects.get(RAYCLUSTER, "a")
    custom.replace_namespaced_custom_object(**OF_CLUSTERS, name="a", body=fresh)


def test_finalizers_and_what_an_object_owns_hold_it(
    api: Api, objects: Objects, store: Store
) -> None:
    owner = objects.create(
        RAYCLUSTER, a_cluster() | {"metadata": {"name": "a", "finalizers": ["x/y"]}}
    )
    objects.create(POD, pod("p", "rank"), owner)
    store.kubelets = True
    assert api.delete(RAYCLUSTER, "raymoe", "a")
    assert objects.get(POD, "p")["metadata"]["deletionTimestamp"]
    objects.delete(POD, "p", at_once=True)
    assert objects.get(POD, "p") is None
    assert objects.get(RAYCLUSTER, "a")["metadata"]["finalizers"] == ["x/y"]
    objects.change(RAYCLUSTER, "a", {"metadata": {"finalizers": []}})
    assert store.objects == {}


def test_what_has_lost_its_owner_goes(objects: Objects, store: Store) -> None:
    owner = objects.create(RAYCLUSTER, a_cluster())
    objects.create(POD, pod("p", "rank"), owner)
    objects.delete(RAYCLUSTER, "a")
    assert store.objects == {}
