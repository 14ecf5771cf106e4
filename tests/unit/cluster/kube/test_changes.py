"""What applying would do: a table of what is wished, what is there, and what is decided."""

import copy
from typing import Any

import pytest

from cluster.kube.changes import change
from tests.kube.tables import job, service

Table = dict[str, Any]


def with_(table: Table, *path: Any, value: Any) -> Table:
    changed = copy.deepcopy(table)
    node: Any = changed
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return changed


GROUP = {"replicas": 1, "maxReplicas": 1, "template": {"image": "a:1"}}
SERVICE = service(
    rayClusterConfig={"workerGroupSpecs": [GROUP]}, upgradeStrategy={"type": "NewCluster"}
)
FIRST = ("spec", "rayClusterConfig", "workerGroupSpecs", 0)
OTHER_IMAGE = with_(SERVICE, *FIRST, "template", value={"image": "a:2"})
NOBODYS = with_(job(), "metadata", "labels", value={})
GOING = with_(job(), "metadata", "deletionTimestamp", value="2026-11-30T12:00:00Z")
NOTED = with_(job({"jobStatus": "RUNNING"}), "metadata", "resourceVersion", value="7")


@pytest.mark.parametrize(
    ("wished", "there", "would", "what", "words"),
    [
        (job(), None, None, "create", "made"),
        (job(), job(), job(), "keep", "as it is"),
        (job(), NOTED, job(), "keep", "as it is"),
        (job(), GOING, job(), "wait", "an older one is being deleted"),
        (job(), NOBODYS, job(), "refuse", "there is one that raymoe did not make"),
        (
            job(),
            job(),
            job(suspend=True),
            "refuse",
            "it runs with other pods, and KubeRay does not",
        ),
        (
            job(),
            job({"jobDeploymentStatus": "Complete"}),
            job(suspend=True),
            "refuse",
            "it has ended with other pods",
        ),
        (
            job(),
            job(),
            with_(job(), "metadata", "labels", "team", value="x"),
            "change",
            "changed",
        ),
        (
            SERVICE,
            SERVICE,
            with_(SERVICE, *FIRST, "maxReplicas", value=3),
            "change",
            "changed in place",
        ),
        (SERVICE, SERVICE, OTHER_IMAGE, "change", "a new cluster starts beside the old one"),
        (
            SERVICE,
            SERVICE,
            with_(OTHER_IMAGE, "spec", "upgradeStrategy", "type", value="None"),
            "change",
            "the running cluster stays as it is",
        ),
        (
            SERVICE,
            SERVICE,
            with_(
                OTHER_IMAGE,
                "spec",
                "upgradeStrategy",
                "type",
                value="NewClusterWithIncrementalUpgrade",
            ),
            "change",
            "takes over the traffic in steps",
        ),
    ],
)
def test_the_change_follows_from_what_is_wished_and_there(
    wished: Table, there: Table | None, would: Table | None, what: str, words: str
) -> None:
    found = change(wished, there, would)
    assert found.what == what
    assert words in found.words
