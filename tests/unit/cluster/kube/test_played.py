"""KubeRay's part as tests play it: what becomes of a RayJob, without a process that runs."""

import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.kube.kinds import POD, RAYCLUSTER, RAYJOB, SECRET
from tests.kube.batch import reconcile_batch
from tests.kube.kuberay.clusters import reconcile_cluster
from tests.kube.kuberay.jobs import reconcile_job
from tests.kube.objects import JOB, SERVICE, Objects
from tests.kube.server import Store, serving
from tests.manifests.samples import deployment, job, two_stages

Table = dict[str, Any]

SCALED = deployment(namespace="raymoe", workers={"autoscale": True})


@pytest.fixture
def objects() -> Iterator[Objects]:
    with serving(Store()) as api:
        yield Objects(api.client, "raymoe")


@pytest.fixture
def cluster(objects: Objects) -> Table:
    """A RayJob's cluster, with the pods that it begins with."""
    objects.create(RAYJOB, job(two_stages(), SCALED))
    looked(objects)
    return found(objects)


def found(objects: Objects) -> Table:
    (only,) = objects.every(RAYCLUSTER)
    return only


def looked(objects: Objects, times: int = 3) -> None:
    """Have KubeRay and the controller of Jobs look at everything so often."""
    for _ in range(times):
        for each in objects.every(RAYJOB):
            reconcile_job(objects, each)
        for each in objects.every(RAYCLUSTER):
            reconcile_cluster(objects, each)
        for each in objects.every(JOB):
            reconcile_batch(objects, each)


def said(objects: Objects, phase: str, ready: bool = True) -> None:
    """Say of all pods how they are, as their kubelet would."""
    conditions = [{"type": "Ready", "status": str(ready)}]
    for pod in objects.every(POD):
        objects.status(POD, pod["metadata"]["name"], {"phase": phase, "conditions": conditions})


def roles(objects: Objects) -> list[str]:
    return sorted(each["metadata"]["labels"]["raymoe/role"] for each in objects.every(POD))


def start(pod: Table) -> dict[str, str]:
    """Return the flags of ``ray start`` in a pod."""
    line = pod["spec"]["containers"][0]["args"][0].partition("; ")[2]
    words = shlex.split(line)
    assert words[:2] == ["ray", "start"]
    pairs = (word.lstrip("-").partition("=") for word in words[2:])
    return {key: value for key, _, value in pairs}


def test_pods_start_ray_as_their_groups_say(objects: Objects, cluster: Table) -> None:
    assert roles(objects) == ["driver", "head"]
    pods = {each["metadata"]["labels"]["raymoe/role"]: each for each in objects.every(POD)}
    head, driver = start(pods["head"]), start(pods["driver"])
    assert {"head", "block", "no-monitor"} <= head.keys()
    assert (head["num-cpus"], driver["num-cpus"]) == ("0", "0")
    assert head["memory"] == str(6 * 2**30)
    name = cluster["metadata"]["name"]
    assert driver["address"] == f"{name}-head-svc.raymoe.svc.cluster.local:6379"
    assert "raymoe/role=driver" in driver["labels"].split(",")
    assert [each["name"] for each in pods["head"]["spec"]["containers"]] == [
        "ray-head",
        "autoscaler",
    ]
    assert objects.get(SECRET, name)["data"]["auth_token"]
    assert objects.get(SERVICE, f"{name}-head-svc")["spec"]["clusterIP"] == "None"


def test_a_job_is_submitted_once_its_cluster_is_ready(objects: Objects, cluster: Table) -> None:
    assert objects.every(JOB) == []
    said(objects, "Running")
    looked(objects)
    assert found(objects)["status"]["state"] == "ready"
    assert objects.get(RAYJOB, "demo")["status"]["jobDeploymentStatus"] == "Running"
    (submitter,) = (each for each in objects.every(POD, "raymoe/role=submitter"))
    words = submitter["spec"]["containers"][0]["args"][0]
    assert "-- raymoe train /etc/raymoe/run.toml --resume-if-saved ;" in words
    looked(objects)
    assert len(objects.every(JOB)) == 1


def test_groups_have_the_size_that_the_autoscaler_says(objects: Objects, cluster: Table) -> None:
    group = cluster["spec"]["workerGroupSpecs"][1]
    assert (group["replicas"], group["minReplicas"]) == (0, 0)
    resize(objects, cluster, group["maxReplicas"], [])
    ranks = objects.every(POD, "raymoe/role=rank")
    assert len(ranks) == group["maxReplicas"]
    assert start(ranks[0])["num-cpus"] == "3"
    objects.status(POD, ranks[0]["metadata"]["name"], {"phase": "Failed"})
    looked(objects)
    after = {each["metadata"]["name"] for each in objects.every(POD, "raymoe/role=rank")}
    assert len(after) == group["maxReplicas"]
    assert ranks[0]["metadata"]["name"] not in after
    resize(objects, cluster, 0, sorted(after))
    assert roles(objects) == ["driver", "head"]


def resize(objects: Objects, cluster: Table, replicas: int, going: list[str]) -> None:
    """Write the size of the first group of ranks as Ray's autoscaler does."""
    groups = found(objects)["spec"]["workerGroupSpecs"]
    groups[1] |= {"replicas": replicas, "scaleStrategy": {"workersToDelete": going}}
    name = cluster["metadata"]["name"]
    objects.change(RAYCLUSTER, name, {"spec": {"workerGroupSpecs": groups}})
    looked(objects)


def test_a_deleted_job_takes_everything_with_it(objects: Objects, cluster: Table) -> None:
    objects.delete(RAYJOB, "demo")
    assert objects.get(RAYJOB, "demo")["metadata"]["finalizers"] == ["ray.io/rayjob-finalizer"]
    looked(objects)
    for kind in (RAYJOB, RAYCLUSTER, POD, SECRET, SERVICE):
        assert objects.every(kind) == []
