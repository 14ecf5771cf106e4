import copy
from collections.abc import Callable
from typing import Any

import pytest

from cluster.kuberay.rules import check

Table = dict[str, Any]

LIMITS = {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}


def _pod() -> Table:
    return {"spec": {"containers": [{"name": "ray", "image": "x:1", "resources": LIMITS}]}}


def _group(name: str) -> Table:
    return {
        "groupName": name,
        "replicas": 1,
        "minReplicas": 1,
        "maxReplicas": 1,
        "scaleStrategy": {"workersToDelete": []},
        "rayStartParams": {},
        "template": _pod(),
    }


def _cluster() -> Table:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "demo", "namespace": "default"},
        "spec": {
            "rayVersion": "2.60.0",
            "authOptions": {"mode": "token"},
            "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": _pod()},
            "workerGroupSpecs": [_group("a"), _group("b")],
        },
    }


def _job(**changes: Any) -> Table:
    spec = {"entrypoint": "true", "rayClusterSpec": _cluster()["spec"]} | changes
    return {"kind": "RayJob", "metadata": {"name": "demo"}, "spec": spec}


def _service(**changes: Any) -> Table:
    spec = {"serveConfigV2": "applications: []", "rayClusterConfig": _cluster()["spec"]} | changes
    return {"kind": "RayService", "metadata": {"name": "demo"}, "spec": spec}


def test_sound_objects_have_no_violation() -> None:
    assert check([_cluster(), _job(), _service()]) == []


def _first(spec: Table) -> Table:
    group: Table = spec["workerGroupSpecs"][0]
    return group


def _container(group: Table) -> Table:
    container: Table = group["template"]["spec"]["containers"][0]
    return container


FAULTS: dict[str, Callable[[Table], Any]] = {
    "group-unique": lambda spec: _first(spec).update(groupName="b"),
    "group-name": lambda spec: _first(spec).update(groupName="B_1"),
    "group-size: a lacks": lambda spec: _first(spec).pop("maxReplicas"),
    "group-size: a has minReplicas 2": lambda spec: _first(spec).update(minReplicas=2),
    "group-size: a has replicas 5": lambda spec: _first(spec).update(replicas=5),
    "scale-strategy": lambda spec: _first(spec).pop("scaleStrategy"),
    "start-parameter": lambda spec: _first(spec).update(rayStartParams={"num-cpus": 1}),
    "start-labels": lambda spec: _first(spec).update(rayStartParams={"labels": "a=b"}),
    "start-resources": lambda spec: spec["headGroupSpec"].update(resources={"CPU": "0"}),
    "label": lambda spec: _first(spec).update(labels={"raymoe/kind": "with space"}),
    "containers": lambda spec: _first(spec)["template"]["spec"].update(containers=[]),
    "limits: group a has no cpu": lambda spec: _container(_first(spec)).pop("resources"),
    "requests": lambda spec: _container(_first(spec)).update(
        resources=LIMITS | {"requests": {"cpu": "2", "memory": "1Gi"}}
    ),
    "autoscaler:": lambda spec: spec.update(autoscalerOptions={"version": "v2"}),
    "autoscaler-idle": lambda spec: spec.update(
        enableInTreeAutoscaling=True, autoscalerOptions={"idleTimeoutSeconds": -1}
    ),
    "autoscaler-restart": lambda spec: (
        spec.update(enableInTreeAutoscaling=True, autoscalerOptions={"version": "v2"}),
        _first(spec)["template"]["spec"].update(restartPolicy="Always"),
    ),
    "autoscaler-version": lambda spec: _container(_first(spec)).update(
        env=[{"name": "RAY_enable_autoscaler_v2", "value": "1"}]
    ),
    "auth: authOptions.mode": lambda spec: spec.pop("authOptions"),
    "auth: token mode": lambda spec: spec.update(rayVersion="2.51.1"),
    "ray-version": lambda spec: spec.pop("rayVersion"),
}


@pytest.mark.parametrize("rule", FAULTS)
def test_each_rule_of_a_cluster_finds_its_fault_wherever_the_cluster_is(rule: str) -> None:
    for table, key in ((_cluster(), None), (_job(), "rayClusterSpec")):
        broken = copy.deepcopy(table)
        FAULTS[rule](broken["spec"][key] if key else broken["spec"])
        (fault, *_) = check([broken])
        assert fault.startswith(f"{broken['kind']}/demo: {rule}")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"ttlSecondsAfterFinished": 5}, "job-ttl"),
        ({"backoffLimit": -1}, "job-retries"),
        ({"activeDeadlineSeconds": 0}, "job-deadline"),
        ({"suspend": True}, "job-suspend"),
        ({"submissionMode": "SidecarMode", "submitterPodTemplate": {}}, "job-submitter"),
        ({"runtimeEnvYAML": "a: [1"}, "yaml: runtimeEnvYAML does not parse"),
        ({"rayClusterSpec": _cluster()["spec"] | {"upgradeStrategy": {}}}, "cluster-upgrade"),
    ],
)
def test_each_rule_of_a_job_finds_its_fault(changes: Table, rule: str) -> None:
    (fault,) = check([_job(**changes)])
    assert fault.startswith(f"RayJob/demo: {rule}")


def test_a_job_needs_a_cluster() -> None:
    table = _job()
    del table["spec"]["rayClusterSpec"]
    assert check([table])[0].startswith("RayJob/demo: job-cluster")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"serveConfigV2": "text"}, "yaml: serveConfigV2 is not a table"),
        ({"upgradeStrategy": {"type": "Recreate"}}, "service-upgrade"),
        ({"rayClusterDeletionDelaySeconds": -1}, "service-delay"),
    ],
)
def test_each_rule_of_a_service_finds_its_fault(changes: Table, rule: str) -> None:
    (fault,) = check([_service(**changes)])
    assert fault.startswith(f"RayService/demo: {rule}")


@pytest.mark.parametrize(
    ("kind", "longest"), [("RayCluster", 53), ("RayJob", 47), ("RayService", 47)]
)
def test_names_are_as_long_as_kuberay_leaves_room_for(kind: str, longest: int) -> None:
    table = {"RayCluster": _cluster(), "RayJob": _job(), "RayService": _service()}[kind]
    table["metadata"]["name"] = "a" * longest
    assert check([table]) == []
    table["metadata"]["name"] = "a" * (longest + 1)
    assert f"give at most {longest}" in check([table])[0]


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "1a", "a.b", "a_b", "ä"])
def test_names_are_dns_labels_that_begin_with_a_letter(name: str) -> None:
    table = _cluster()
    table["metadata"]["name"] = name
    assert "the first a letter" in check([table])[0]
