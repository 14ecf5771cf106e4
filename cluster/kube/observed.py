"""What is there of a run or a server: its object, its Ray cluster, its pods, their events."""

from dataclasses import dataclass
from typing import Any

from cluster.kube.api import Api, Refusal
from cluster.kube.kinds import EVENT, POD, RAYCLUSTER, RAYJOB, RAYSERVICE, Kind
from cluster.kuberay.scheduling import COMPONENT_LABEL, ROLE_LABEL, RUN_LABEL, SERVING, TRAINING
from moe.errors import ConfigError

Table = dict[str, Any]

COMPONENTS = {RAYJOB.name: TRAINING, RAYSERVICE.name: SERVING}


@dataclass(frozen=True, slots=True)
class Observed:
    """Tables as the API server gives them; ``owner`` is the RayJob or RayService."""

    kind: str
    name: str
    owner: Table | None = None
    cluster: Table | None = None
    pods: tuple[Table, ...] = ()
    events: tuple[Table, ...] = ()

    @property
    def status(self) -> Table:
        """The status of the owner; empty before KubeRay has looked at it."""
        return dict((self.owner or {}).get("status") or {})

    @property
    def conditions(self) -> tuple[tuple[str, Table], ...]:
        """The conditions that KubeRay keeps, of the owner and of its Ray cluster, and whose."""
        cluster = (self.cluster or {}).get("status") or {}
        kinds = ((self.kind, self.status), (RAYCLUSTER.name, cluster))
        return tuple((kind, each) for kind, of in kinds for each in of.get("conditions") or ())

    @property
    def roles(self) -> list[str]:
        """The roles that pods have now."""
        return sorted({role_of(pod) for pod in self.pods} - {""})

    def of_role(self, role: str) -> list[Table]:
        """Return the pods of a role, by name."""
        own = [pod for pod in self.pods if role_of(pod) == role]
        return sorted(own, key=lambda pod: str(pod["metadata"]["name"]))


def observe(api: Api, kind: Kind, namespace: str, name: str) -> Observed:
    """Ask the API server for everything about one object."""
    owner = api.get(kind, namespace, name)
    found = cluster_name(owner) if owner else None
    cluster = api.get(RAYCLUSTER, namespace, found) if found else None
    selector = f"{RUN_LABEL}={name},{COMPONENT_LABEL}={COMPONENTS[kind.name]}"
    pods = api.every(POD, namespace, selector)
    names = {name, found, *(pod["metadata"]["name"] for pod in pods)}
    events = [each for each in api.every(EVENT, namespace) if _about(each) in names]
    events.sort(key=_time)
    return Observed(kind.name, name, owner, cluster, tuple(pods), tuple(events))


def last_line(api: Api, namespace: str, observed: Observed) -> str:
    """Return the last line of the log of the pod that submitted a run; empty without one."""
    pods = [pod for pod in observed.of_role("submitter") if _began(pod)]
    if not pods:
        return ""
    try:
        lines = list(api.log(namespace, pods[-1]["metadata"]["name"], {"tailLines": "1"}))
    except Refusal:  # who may not read logs sees the rest
        return ""
    return lines[-1].strip() if lines else ""


def _began(pod: Table) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Running", "Succeeded", "Failed")


def role_of(pod: Table) -> str:
    """Return the role of a pod; empty for one that has none."""
    return str(pod["metadata"]["labels"].get(ROLE_LABEL, ""))


def cluster_name(owner: Table) -> str | None:
    """Return the name of the Ray cluster of a RayJob or a RayService; None before there is one."""
    status = owner.get("status") or {}
    for part in (
        status,
        status.get("activeServiceStatus") or {},
        status.get("pendingServiceStatus") or {},
    ):
        if part.get("rayClusterName"):
            return str(part["rayClusterName"])
    return None


def kind_there(api: Api, namespace: str, name: str, service: bool | None = None) -> Kind:
    """Return whether a name is that of a RayJob or a RayService; ``service`` chooses."""
    wished = {None: (RAYJOB, RAYSERVICE), False: (RAYJOB,), True: (RAYSERVICE,)}[service]
    found = [kind for kind in wished if api.get(kind, namespace, name) is not None]
    if len(found) > 1:
        raise ConfigError(
            f"{name} is a RayJob and a RayService of namespace {namespace}; give --service for the "
            "server, or --job for the run"
        )
    if not found:
        kinds = " or ".join(kind.name for kind in wished)
        raise ConfigError(
            f"namespace {namespace} has no {kinds} called {name}; give the name and the "
            "--namespace of one, `kubectl get rayjobs,rayservices -A` lists them"
        )
    return found[0]


def _about(event: Table) -> str | None:
    name = (event.get("involvedObject") or event.get("regarding") or {}).get("name")
    return None if name is None else str(name)


def _time(event: Table) -> str:
    made = event["metadata"].get("creationTimestamp", "")
    return str(event.get("lastTimestamp") or event.get("eventTime") or made)
