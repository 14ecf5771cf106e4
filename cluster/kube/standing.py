"""Where a run or a server stands, and why: a pure function of what was observed."""

from dataclasses import dataclass
from typing import Any, Literal

from cluster.job_words import reason_of
from cluster.kube.kinds import RAYJOB
from cluster.kube.observed import Observed
from cluster.kube.troubles import trouble

Phase = Literal[
    "absent",
    "new",
    "queued",
    "starting",
    "running",
    "ready",
    "finished",
    "failed",
    "ending",
]

Table = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Standing:
    """A phase and a sentence; ``ready`` of ``wished`` pods run."""

    phase: Phase
    why: str
    ready: int = 0
    wished: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing changes any more by itself."""
        return self.phase in ("absent", "finished", "failed")

    def __str__(self) -> str:
        pods = f" ({self.ready} of {self.wished} pods)" if self.wished else ""
        return f"{self.phase}{pods}" + (f": {self.why}" if self.why else "")


def standing(observed: Observed) -> Standing:
    """Return where it stands."""
    ready, wished = _counts(observed)
    phase, why = _phase(observed)
    return Standing(phase, why, ready, wished)


def _phase(observed: Observed) -> tuple[Phase, str]:
    owner, status = observed.owner, observed.status
    if owner is None:
        return "absent", f"there is no {observed.kind} of this name"
    if owner["metadata"].get("deletionTimestamp"):
        held = owner["metadata"].get("finalizers")
        return "ending", f"waits for {', '.join(held)}" if held else "its pods are ending"
    if owner["spec"].get("suspend"):
        return "queued", _queued(observed)
    if not status:
        return "new", trouble(observed) or (
            "KubeRay has not looked at it; if that stays so, its operator does not run or does not "
            "watch this namespace (`raymoe kube doctor`)"
        )
    return _of_job(observed) if observed.kind == RAYJOB.name else _of_service(observed)


def _of_job(observed: Observed) -> tuple[Phase, str]:
    status = observed.status
    state, job = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    said = str(status.get("message") or status.get("reason") or "")
    if job == "FAILED" or state in ("Failed", "ValidationFailed"):
        return "failed", reason_of(said) or trouble(observed)
    if job == "STOPPED":
        return "failed", "it was stopped"
    if job == "SUCCEEDED" or state == "Complete":
        return "finished", ""
    if state == "Retrying":
        return "starting", f"again, after {status.get('failed', 0)} failures: {reason_of(said)}"
    if job == "RUNNING":
        return "running", trouble(observed)
    return "starting", trouble(observed) or _waiting(observed)


def _of_service(observed: Observed) -> tuple[Phase, str]:
    status = observed.status
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    broken = _broken(status.get("activeServiceStatus") or status.get("pendingServiceStatus") or {})
    if _is(conditions.get("Ready")):
        upgrading = _is(conditions.get("UpgradeInProgress"))
        return "ready", broken or ("a new cluster is taking over" if upgrading else "")
    return "starting", broken or trouble(observed) or _waiting(observed)


def _broken(cluster: Table) -> str:
    """Return what Ray Serve says of an application that does not come up."""
    for name, application in (cluster.get("applicationStatuses") or {}).items():
        if application.get("status") in ("DEPLOY_FAILED", "UNHEALTHY"):
            return f"application {name} failed: {reason_of(str(application.get('message', '')))}"
    return ""


def _queued(observed: Observed) -> str:
    told = [each for each in observed.events if each.get("reason") == "Pending"]
    because = f": {told[-1].get('message', '')}" if told else ""
    return f"its queue has not admitted it{because}"


def _waiting(observed: Observed) -> str:
    head = observed.of_role("head")
    if not head:
        return "its head pod is not there yet"
    if not is_ready(head[0]):
        return "its head pod is starting"
    left = [pod for pod in observed.pods if not is_ready(pod)]
    return f"{len(left)} pods are starting" if left else ""


def _counts(observed: Observed) -> tuple[int, int]:
    """Return how many pods of the cluster run and stay, and how many it is to have."""
    every = [pod for role in ("head", "driver", "rank") for pod in observed.of_role(role)]
    pods = [pod for pod in every if not pod["metadata"].get("deletionTimestamp")]
    spec = (observed.cluster or {}).get("spec") or {}
    groups = spec.get("workerGroupSpecs") or ()
    wished = sum(group.get("replicas") or group.get("minReplicas") or 0 for group in groups)
    return sum(map(is_ready, pods)), wished + 1 if spec else len(pods)


def is_ready(pod: Table) -> bool:
    """Return whether a pod runs and says that it is well."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _is(condition: Table | None) -> bool:
    return condition is not None and condition.get("status") == "True"
