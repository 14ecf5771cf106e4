"""What Kubernetes does about a Job: a pod that is tried again, and what became of it."""

import copy

from cluster.kube.kinds import POD
from tests.kube.objects import JOB, Objects
from tests.kube.store import Table, now

RETRIES = 2
"""Of KubeRay's submitters."""


def reconcile_batch(objects: Objects, job: Table) -> None:
    """Do what is to be done about a Job now."""
    name = job["metadata"]["name"]
    if job["metadata"].get("deletionTimestamp") or job.get("status", {}).get("conditions"):
        return
    pods = objects.every(POD, f"job-name={name}")
    phases = [each.get("status", {}).get("phase") for each in pods]
    failed = phases.count("Failed")
    if "Succeeded" in phases:
        _ended(objects, name, "Complete", succeeded=1, failed=failed)
    elif failed > RETRIES:
        _ended(objects, name, "Failed", failed=failed)
    elif failed == len(pods):
        template = copy.deepcopy(job["spec"]["template"])
        metadata = template["metadata"] | {"name": f"{name}-{failed}{job['metadata']['uid'][-4:]}"}
        metadata["labels"] = metadata["labels"] | {"job-name": name}
        objects.create(POD, {"metadata": metadata, "spec": template["spec"]}, job)


def _ended(objects: Objects, name: str, type_: str, **counts: int) -> None:
    how: Table = {"type": type_, "status": "True", "lastTransitionTime": now()}
    objects.status(JOB, name, {"conditions": [how], **counts})
