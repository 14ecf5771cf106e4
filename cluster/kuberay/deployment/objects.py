"""What the objects and all of their pods carry: labels, variables, identity."""

from pydantic import Field, field_validator

from cluster.kuberay.deployment.names import Annotations, Labels, ObjectName, Variables
from moe.config.section import Section


class ObjectsSection(Section):
    """Labels and annotations of the RayJob and the RayService themselves."""

    labels: Labels = Field(default={})
    """For what reads the objects, such as a queue: ``kueue.x-k8s.io/queue-name = "team"``."""
    annotations: Annotations = Field(default={})
    """Annotations of the objects; KubeRay reads some of them."""


class PodsSection(Section):
    """What every pod carries: head, driver, ranks, and the one that submits the job."""

    labels: Labels = Field(default={})
    """Labels beside raymoe's own, whose keys begin with ``raymoe/``."""
    annotations: Annotations = Field(default={})
    """Annotations, such as those by which a service mesh leaves pods alone."""
    environment: Variables = Field(default={})
    """Environment variables."""
    environment_secrets: list[ObjectName] = Field(default=[])
    """Secrets whose keys become environment variables, such as credentials of an object store."""
    priority_class: ObjectName | None = None
    """The PriorityClass that says which pods may evict which."""
    grace_seconds: int | None = Field(default=None, gt=0)
    """Seconds from the order to stop a pod until it is killed; left out: those of Kubernetes,
    30."""

    @field_validator("labels")
    @classmethod
    def _leaves_ours(cls, labels: dict[str, str]) -> dict[str, str]:
        if ours := [key for key in labels if key.startswith("raymoe/")]:
            raise ValueError(f"raymoe sets the labels {', '.join(ours)} itself; remove them")
        return labels


class SecuritySection(Section):
    """As whom pods run. Privileges are dropped in every pod; that is no choice."""

    user: int = Field(default=1000, gt=0)
    """Number of the user and of the file system group. Ray's own images have user 1000."""
    service_account: ObjectName | None = None
    """The ServiceAccount of head, driver and rank pods, by which clouds grant access to an object
    store. With ``workers.autoscale`` KubeRay lets it do what Ray's autoscaler does. Left out:
    KubeRay makes one for the autoscaler, and pods have the namespace's own."""
