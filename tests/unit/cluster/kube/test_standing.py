"""Where a run or a server stands, and why: a table of what was observed and what is said."""

from typing import Any

import pytest

from cluster.kube.observed import Observed
from cluster.kube.standing import standing
from cluster.kube.troubles import remedy
from tests.kube.tables import (
    cluster,
    event,
    job,
    killed,
    pod,
    service,
    unscheduled,
    waiting,
)

HEAD, DRIVER = pod("h", "head"), pod("d", "driver")
STARTING = {"jobDeploymentStatus": "Initializing", "rayClusterName": "demo-abcde"}
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
READY = {"conditions": [{"type": "Ready", "status": "True"}]}
FAILED = {
    "jobDeploymentStatus": "Failed",
    "jobStatus": "FAILED",
    "reason": "AppFailed",
    "message": "Job entrypoint command failed with exit code 1, last available logs:\n"
    "step 3/9\nTraceback\n  ...\nerror: the gradient norm is nan; nothing was updated\n",
}
NO_GPU = "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."


def seen(owner: Any, *pods: Any, events: Any = (), kind: str = "RayJob") -> Observed:
    return Observed(kind, "demo", owner, cluster(), tuple(pods), tuple(events))


TABLE = [
    (Observed("RayJob", "demo"), "absent", "there is no RayJob of this name"),
    (seen(job()), "new", "KubeRay has not looked at it; if that stays so, its operator does not"),
    (
        seen(job(), events=[event("demo", "InvalidRayJobSpec", "name too long")]),
        "new",
        "KubeRay refuses the object: name too long",
    ),
    (seen(job(suspend=True)), "queued", "its queue has not admitted it"),
    (
        seen(job(suspend=True), events=[event("demo", "Pending", "couldn't assign flavors")]),
        "queued",
        "its queue has not admitted it: couldn't assign flavors",
    ),
    (seen(job(STARTING)), "starting", "its head pod is not there yet"),
    (seen(job(STARTING), pod("h", "head", ready=False)), "starting", "its head pod is starting"),
    (seen(job(STARTING), HEAD, pod("r", "rank", ready=False)), "starting", "1 pods are starting"),
    (
        seen(job(STARTING), HEAD, *(unscheduled(f"r{n}", "rank", NO_GPU) for n in range(3))),
        "starting",
        "3 of 4 pods: not scheduled: 0/4 nodes are available: 4 Insufficient nvidia.com/gpu; no "
        "node has so much nvidia.com/gpu free: add nodes",
    ),
    (
        seen(job(STARTING), waiting("h", "head", "ImagePullBackOff", "not found")),
        "starting",
        "the pod: image a/b:1 cannot be pulled (not found); correct image.name",
    ),
    (
        seen(
            job(STARTING),
            waiting("h", "head", "CreateContainerConfigError", 'secret "bucket" not found'),
        ),
        "starting",
        'its container cannot start: secret "bucket" not found; make the Secret',
    ),
    (
        seen(job(STARTING), HEAD, events=[event("demo", "FailedCreate", "exceeded quota: team")]),
        "starting",
        "exceeded quota: team; raise the quota of the namespace",
    ),
    (seen(job(RUNNING), HEAD, DRIVER), "running", ""),
    (
        seen(job(RUNNING), killed("h", "head", "OOMKilled")),
        "running",
        "container ray-head exceeded the memory of its pod; raise memory_gib",
    ),
    (
        seen(job(RUNNING), pod("r", "rank", phase="Failed", reason="Evicted", message="low disk")),
        "running",
        "evicted: low disk; raise its disk_gib",
    ),
    (seen(job(FAILED)), "failed", "the gradient norm is nan; nothing was updated"),
    (
        seen(job({"jobDeploymentStatus": "ValidationFailed", "message": "bad ttl"})),
        "failed",
        "bad ttl",
    ),
    (seen(job({"jobStatus": "STOPPED"})), "failed", "it was stopped"),
    (
        seen(job({"jobDeploymentStatus": "Retrying", "failed": 2, "message": "error: lost"})),
        "starting",
        "again, after 2 failures: lost",
    ),
    (seen(job({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"})), "finished", ""),
    (seen(service(READY), kind="RayService"), "ready", ""),
    (
        seen(
            service(
                {
                    "activeServiceStatus": {
                        "applicationStatuses": {
                            "demo": {"status": "DEPLOY_FAILED", "message": "a\nno model at /data/m"}
                        }
                    }
                }
            ),
            kind="RayService",
        ),
        "starting",
        "application demo failed: no model at /data/m",
    ),
    (
        seen(
            service(
                {
                    "conditions": [
                        *READY["conditions"],
                        {"type": "UpgradeInProgress", "status": "True"},
                    ]
                }
            ),
            kind="RayService",
        ),
        "ready",
        "a new cluster is taking over",
    ),
]


@pytest.mark.parametrize(("observed", "phase", "why"), TABLE)
def test_the_phase_and_the_reason_follow_from_what_is_there(
    observed: Observed, phase: str, why: str
) -> None:
    found = standing(observed)
    assert found.phase == phase
    assert why in found.why
    assert bool(why) == bool(found.why)
    assert found.ended == (phase in ("absent", "finished", "failed"))


def test_an_object_that_is_deleted_says_who_holds_it() -> None:
    going = job(RUNNING)
    going["metadata"] |= {"deletionTimestamp": "2026-11-30T12:00:00Z", "finalizers": ["a.b/c"]}
    assert str(standing(seen(going, HEAD))) == "ending (1 of 3 pods): waits for a.b/c"


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ('persistentvolumeclaim "raymoe-data" not found', "make the claim"),
        (
            "pod has unbound immediate PersistentVolumeClaims",
            "its StorageClass and its access mode",
        ),
        ("1 node(s) didn't match Pod's node affinity/selector", "correct workers.node_selectors"),
        ("1 node(s) had untolerated taint {spot: true}", "add the taint to workers.tolerations"),
        ('violates PodSecurity "restricted:latest"', "leave out what the namespace forbids"),
        ('configmap "demo-training" not found', "apply the ConfigMap"),
        ("something new", "something new"),
    ],
)
def test_messages_of_kubernetes_end_with_what_to_change(message: str, what: str) -> None:
    assert what in remedy(message)


def test_pods_that_are_ending_are_not_counted() -> None:
    going = pod("r", "rank")
    going["metadata"]["deletionTimestamp"] = "2026-11-30T12:00:00Z"
    assert str(standing(seen(job(RUNNING), HEAD, DRIVER, going))) == "running (2 of 3 pods)"
