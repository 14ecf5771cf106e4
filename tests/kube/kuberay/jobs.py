"""What KubeRay does about a RayJob (rayjob_controller.go, common/job.go): its cluster, the job that
submits, the states it goes through, and what it deletes after the end. Of deletion it knows
``shutdownAfterJobFinishes``; suspension and the other submission modes it does not know.
"""

import contextlib
import copy
import time
from datetime import datetime

from cluster.kube.kinds import RAYCLUSTER, RAYJOB
from tests.kube.kuberay.clusters import suffix
from tests.kube.kuberay.dashboard import Dashboard, Silent
from tests.kube.kuberay.pods import DASHBOARD_PORT, MADE_BY, MADE_FOR, head_address, token_variables
from tests.kube.objects import JOB, Objects
from tests.kube.store import Table, now

FINALIZER = "ray.io/rayjob-finalizer"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def reconcile_job(objects: Objects, job: Table) -> None:
    """Do what is to be done about a RayJob now."""
    if job["metadata"].get("deletionTimestamp"):
        _let_go(objects, job)
        return
    state = (job.get("status") or {}).get("jobDeploymentStatus", "")
    if state == "":
        _begin(objects, job)
    elif state == "Initializing":
        _submit(objects, job)
    elif state == "Running":
        _follow(objects, job)
    elif state == "Retrying":
        _again(objects, job)
    elif job["spec"].get("shutdownAfterJobFinishes"):
        _shut(objects, job)


def _begin(objects: Objects, job: Table) -> None:
    name, metadata = job["metadata"]["name"], job["metadata"]
    held = metadata.get("finalizers", [])
    if FINALIZER not in held:
        objects.change(RAYJOB, name, {"metadata": {"finalizers": [*held, FINALIZER]}})
    told = {"jobId": f"{name}-{suffix()}", "rayClusterName": f"{name}-{suffix()}"}
    told |= {"jobStatus": "", "jobDeploymentStatus": "Initializing", "startTime": now()}
    objects.status(RAYJOB, name, told)


def _submit(objects: Objects, job: Table) -> None:
    """Make the cluster; once it is ready, the job that submits."""
    if _out_of_time(objects, job):
        return
    cluster = _cluster(objects, job)
    if (cluster.get("status") or {}).get("state") != "ready":
        return
    url = f"{head_address(cluster)}:{DASHBOARD_PORT}"
    template = _submitter(job, cluster, url)
    metadata = {"name": job["metadata"]["name"], "labels": _made_for(job)}
    objects.create(JOB, {"metadata": metadata, "spec": {"template": template}}, job)
    _tell(objects, job, dashboardURL=url, jobDeploymentStatus="Running")


def _follow(objects: Objects, job: Table) -> None:
    """Say what Ray says of the job; it has ended once its submitter has too."""
    submitter = objects.get(JOB, job["metadata"]["name"])
    over = {
        each["type"]: each for each in (submitter or {}).get("status", {}).get("conditions", ())
    }
    try:
        found = Dashboard(objects, _cluster(objects, job)).job(job["status"]["jobId"])
    except Silent:
        return
    if found is None:
        if over:
            words = "Submitter completed but Ray job not found in RayCluster."
            _failed(objects, job, "AppFailed", words)
        return
    status, message = found["status"], found.get("message") or ""
    if status in ENDED and over:
        if status == "FAILED":
            _failed(objects, job, "AppFailed", message, jobStatus=status)
        else:
            told = {"jobStatus": status, "message": message, "endTime": now()}
            done = {"succeeded": 1} if status == "SUCCEEDED" else {}
            _tell(objects, job, jobDeploymentStatus="Complete", **told, **done)
    else:
        _tell(objects, job, jobStatus=status, message=message)


def _failed(objects: Objects, job: Table, reason: str, message: str, **more: str) -> None:
    """Say that it failed; where tries are left, it is tried again."""
    failed = int(job["status"].get("failed", 0)) + 1
    again = failed < int(job["spec"].get("backoffLimit", 0)) + 1 and reason != "DeadlineExceeded"
    state = "Retrying" if again else "Failed"
    told = {"reason": reason, "message": message, "endTime": now(), "failed": failed}
    _tell(objects, job, jobDeploymentStatus=state, **told, **more)


def _again(objects: Objects, job: Table) -> None:
    name = job["status"]["rayClusterName"]
    objects.delete(RAYCLUSTER, name)
    objects.delete(JOB, job["metadata"]["name"])
    if objects.get(RAYCLUSTER, name) is None and objects.get(JOB, job["metadata"]["name"]) is None:
        empty = dict.fromkeys(("rayClusterName", "dashboardURL", "jobId", "message", "reason"), "")
        _tell(objects, job, jobStatus="", jobDeploymentStatus="", **empty)


def _shut(objects: Objects, job: Table) -> None:
    """Delete the cluster some time after the end."""
    ended = datetime.fromisoformat(job["status"]["endTime"]).timestamp()
    if time.time() >= ended + job["spec"].get("ttlSecondsAfterFinished", 0):
        objects.delete(RAYCLUSTER, job["status"]["rayClusterName"])


def _let_go(objects: Objects, job: Table) -> None:
    """Stop the job of one that is deleted, and let it go whether that succeeds or not."""
    held = job["metadata"].get("finalizers", [])
    if FINALIZER not in held:
        return
    status = job.get("status") or {}
    name = status.get("rayClusterName")
    cluster = objects.get(RAYCLUSTER, name) if name else None
    if status.get("jobStatus") not in ENDED and cluster is not None:
        with contextlib.suppress(Silent):
            Dashboard(objects, cluster).stop_job(status["jobId"])
    left = [each for each in held if each != FINALIZER]
    objects.change(RAYJOB, job["metadata"]["name"], {"metadata": {"finalizers": left}})


def _out_of_time(objects: Objects, job: Table) -> bool:
    seconds = job["spec"].get("preRunningDeadlineSeconds")
    begun = datetime.fromisoformat(job["status"]["startTime"]).timestamp()
    if not seconds or time.time() < begun + seconds:
        return False
    _failed(objects, job, "PreRunningDeadlineExceeded", "The RayJob did not start in time.")
    return True


def _cluster(objects: Objects, job: Table) -> Table:
    """Return the cluster of a job; makes it, once."""
    metadata = {
        "name": job["status"]["rayClusterName"],
        "labels": dict(job["metadata"].get("labels", {})) | _made_for(job),
        "annotations": dict(job["metadata"].get("annotations", {})),
    }
    found = objects.get(RAYCLUSTER, metadata["name"])
    spec = copy.deepcopy(job["spec"]["rayClusterSpec"])
    return found or objects.create(RAYCLUSTER, {"metadata": metadata, "spec": spec}, job)


def _made_for(job: Table) -> dict[str, str]:
    return {MADE_FOR: job["metadata"]["name"], MADE_BY: "RayJob"}


def _submitter(job: Table, cluster: Table, url: str) -> Table:
    """Return the template of the pod that submits, and prints the log of the job."""
    template, name = copy.deepcopy(job["spec"]["submitterPodTemplate"]), job["status"]["jobId"]
    box = template["spec"]["containers"][0]
    at = f"--address http://{url}"
    health = (
        f"import urllib.request; r=urllib.request.urlopen('http://{url}/api/gcs_healthz', "
        "timeout=5); exit(0 if b'success' in r.read() else 1)"
    )
    box["command"] = ["/bin/bash", "-ce", "--"]
    box["args"] = [
        f'until python -c "{health}" >/dev/null 2>&1 ; do echo "Waiting for Ray Dashboard GCS to '
        f'become healthy at http://{url} ..." ; sleep 2 ; done ; '
        f"if ! ray job status {at} {name} >/dev/null 2>&1 ; then "
        f"ray job submit {at} --no-wait --submission-id {name} -- {job['spec']['entrypoint']} ; "
        f"fi ; ray job logs {at} --follow {name}"
    ]
    own = {"PYTHONUNBUFFERED": "1", "RAY_DASHBOARD_ADDRESS": url, "RAY_JOB_SUBMISSION_ID": name}
    box["env"] = [
        *box.get("env", []),
        *({"name": key, "value": value} for key, value in own.items()),
        *token_variables(cluster),
    ]
    labels = template.setdefault("metadata", {}).setdefault("labels", {})
    labels.update(_made_for(job))
    return dict(template)


def _tell(objects: Objects, job: Table, **status: object) -> None:
    if any((job.get("status") or {}).get(key) != value for key, value in status.items()):
        objects.status(RAYJOB, job["metadata"]["name"], status)
