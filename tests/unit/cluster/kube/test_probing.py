"""Pods that look from inside. The test is the kubelet: it runs their commands, on this machine."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import pytest

from cluster.kube.api import Api
from cluster.kube.checks import probing
from cluster.kube.checks.finding import Finding
from cluster.kube.doctor import examine
from cluster.kuberay.deployment import Deployment
from tests.kube.server import Store, serving
from tests.manifests.restricted import violations
from tests.manifests.samples import GPU_TABLE, deployment

Table = dict[str, Any]

HERE = deployment(namespace="raymoe")


@dataclass
class Kubelet(Store):
    """Runs the command of each pod when it is made. ``status`` is that of pods that do not run."""

    status: Table | None = None
    ran: list[Table] = field(default_factory=list)

    def write(self, key: Any, table: Table) -> Table:
        if key[1] == "pods":
            self.ran.append(table)
            table["status"] = self.status or self._run(table)
        return super().write(key, table)

    def _run(self, table: Table) -> Table:
        _, *words = table["spec"]["containers"][0]["command"]
        # The name of the API server is known inside of a cluster alone.
        words = ["localhost" if word == probing.API_NAME else word for word in words]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
        self.logs[table["metadata"]["name"]] = done.stdout
        return {"phase": "Failed" if done.returncode else "Succeeded"}


@pytest.fixture
def kubelet(monkeypatch: pytest.MonkeyPatch) -> Kubelet:
    monkeypatch.setattr(probing, "POLL_SECONDS", 0.01)
    return Kubelet()


@pytest.fixture
def api(kubelet: Kubelet) -> Iterator[Api]:
    with serving(kubelet) as found:
        yield found


def probed(api: Api, options: Deployment = HERE, seconds: float = 30.0) -> dict[str, Finding]:
    return {each.what: each for each in probing.probe(api, options, seconds)}


def test_a_pod_says_what_the_image_has_and_that_names_resolve(api: Api, kubelet: Kubelet) -> None:
    found = probed(api)
    assert [each.good for each in found.values()] == [True, True]
    said = found["image, for the head"].found
    assert said == f"pulled; Ray {version('ray')}, raymoe {version('raymoe')}"
    assert found["names, for the head"].found == "localhost resolve"
    assert kubelet.objects == {}  # the pods are gone
    (pod,) = kubelet.ran  # head and driver may be in the same places
    assert list(violations(pod["spec"])) == []


def test_a_name_that_does_not_resolve_is_told_with_the_reason(api: Api) -> None:
    recovery = {"backend": "redis", "redis_address": "nowhere.invalid:6379"}
    found = probed(api, deployment(namespace="raymoe", recovery=recovery))["names, for the head"]
    assert found.good is False
    assert found.found.startswith("nowhere.invalid: ")
    assert "DNS must answer pods of this namespace" in found.remedy


def test_an_image_of_another_ray_is_wrong(api: Api) -> None:
    options = deployment(namespace="raymoe", image={"ray_version": "2.55.0"})
    found = probed(api, options)["image, for the head"]
    assert found.good is False
    assert found.remedy.startswith("image.ray_version is 2.55.0: set it to that of the image")


def test_an_image_that_no_node_can_pull_ends_the_wait_with_the_words_of_the_node(
    api: Api, kubelet: Kubelet
) -> None:
    waiting = {"reason": "ImagePullBackOff", "message": "401 Unauthorized"}
    box = {"name": "probe", "image": "a/b:1", "state": {"waiting": waiting}}
    kubelet.status = {"phase": "Pending", "containerStatuses": [box]}
    (found,) = probed(api, seconds=600).values()
    assert (found.what, found.good) == ("a pod for the head", False)
    assert found.found.startswith("image a/b:1 cannot be pulled (401 Unauthorized); correct")
    assert kubelet.objects == {}


def test_a_pod_that_no_node_takes_says_why_when_the_time_is_over(
    api: Api, kubelet: Kubelet
) -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "untolerated taint {a: b}"}
    kubelet.status = {"phase": "Pending", "conditions": [condition]}
    (found,) = probed(api, seconds=0.05).values()
    assert "add the taint to workers.tolerations" in found.found


def test_each_place_of_a_deployment_has_a_pod_of_its_own() -> None:
    options = deployment(
        GPU_TABLE,
        head={"node_selector": {"pool": "cpu"}},
        workers={"node_selectors": {"A100": {"gpu": "a100"}, "cpu": {}}},
    )
    found = [each.what for each in probing.places(options)]
    assert found == ["head", "driver", "ranks on A100"]  # ranks on CPUs go where the driver goes


def test_pods_are_started_only_where_that_is_asked_for(api: Api, kubelet: Kubelet) -> None:
    list(examine(api, HERE))
    assert kubelet.ran == []
    kubelet.forbidden = {("patch", "pods")}
    found = {each.what: each for each in examine(api, HERE, probe_seconds=5)}
    assert found["probe"].good is None
    assert "lacking: patch pods" in found["rights"].found
