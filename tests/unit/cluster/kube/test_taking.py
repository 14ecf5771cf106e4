"""One resize at a time: the note on a RayCluster."""

from collections.abc import Iterator
from typing import Any

import pytest

from cluster.kube.api import Api, Refusal
from cluster.kube.taking import NOTE, release, take, taken_by
from tests.kube.server import Store, serving
from tests.manifests.samples import cluster, deployment, two_stages

Table = dict[str, Any]


@pytest.fixture
def store() -> Store:
    found = Store()
    found.put(cluster(two_stages(), deployment(namespace="raymoe")), "rayclusters")
    return found


@pytest.fixture
def api(store: Store) -> Iterator[Api]:
    with serving(store) as found:
        yield found


def there(store: Store) -> Table:
    return store.find("rayclusters", "demo-abcde")


def test_who_comes_first_has_the_cluster_until_it_is_released(api: Api, store: Store) -> None:
    first = second = there(store)
    assert taken_by(first) is None
    assert take(api, first, "--replicas 4", 60)
    assert not take(api, second, "--replicas 3", 60)  # it has changed since it was looked at
    assert taken_by(there(store)) == "--replicas 4"
    release(api, there(store))
    assert taken_by(there(store)) is None
    assert NOTE not in there(store)["metadata"]["annotations"]
    assert take(api, there(store), "--replicas 3", 60)


def test_a_note_ends_by_itself_and_another_s_is_not_removed(api: Api, store: Store) -> None:
    assert take(api, there(store), "--replicas 4", 0)
    old = there(store)
    assert taken_by(old) == "--replicas 4"
    assert taken_by(old, now=4e9) is None
    assert take(api, old, "--replicas 3", 60)
    release(api, old)
    assert taken_by(there(store)) == "--replicas 3"


def test_other_annotations_stay_and_a_right_that_is_lacking_is_said(api: Api, store: Store) -> None:
    there(store)["metadata"]["annotations"] = {"a": "b"}
    assert take(api, there(store), "--replicas 4", 60)
    assert there(store)["metadata"]["annotations"]["a"] == "b"
    store.forbidden = {("patch", "rayclusters")}
    with pytest.raises(Refusal, match="rayclusters is forbidden"):
        take(api, there(store), "--replicas 3", 60)
