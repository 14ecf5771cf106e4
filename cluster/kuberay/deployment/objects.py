"""What the objects and all their pods have in common: labels, variables, identity."""

from pydantic import Field, field_validator

from cluster.kuberay.deployment.names import Annotations, Labels, ObjectName, Variables
from moe.config.section import Section


class ObjectsSection(Section):
    """Labels and annotations of the RayJob and the RayService themselves."""

    labels: Labels = Field(default={})
    """Labels for tools that read the objects, such as a queue: ``kueue.x-k8s.io/queue-name =
    "team"``.
    """
    annotations: Annotations = Field(default={})
    """Annotations of the objects; KubeRay reads some of them."""


END_SECONDS = 5
"""What Ray gets of a pod's grace to end its processes, once the ranks had the rest to leave."""


class PodsSection(Section):
    """What all pods have: head, driver, ranks, and the pod that submits the job."""

    labels: Labels = Field(default={})
    """Labels beside raymoe's own, whose keys begin with ``raymoe/``."""
    annotations: Annotations = Field(default={})
    """Annotations, for example to exclude the pods from a service mesh."""
    environment: Variables = Field(default={})
    """Environment variables."""
    environment_secrets: list[ObjectName] = Field(default=[])
    """Secrets whose keys become environment variables, such as credentials of an object store."""
    priority_class: ObjectName | None = None
    """The PriorityClass that says which pods may evict which."""
    grace_seconds: int = Field(default=30, gt=END_SECONDS)
    """Seconds between the stop signal to a pod and its end by force. All but the last five are what
    the ranks of the pod have to leave.
    """

    @property
    def notice_seconds(self) -> int:
        """Seconds that the ranks of a pod have to leave after its stop signal."""
        return self.grace_seconds - END_SECONDS

    @field_validator("labels")
    @classmethod
    def _leaves_ours(cls, labels: dict[str, str]) -> dict[str, str]:
        if ours := [key for key in labels if key.startswith("raymoe/")]:
            raise ValueError(f"raymoe sets the labels {', '.join(ours)} itself; remove them")
        return labels


class SecuritySection(Section):
    """The identity under which pods run. Every pod drops its privileges; only ``lock_memory`` adds
    one.
    """

    user: int = Field(default=1000, gt=0)
    """Number of the user and of the file system group. Ray's own images have user 1000."""
    service_account: ObjectName | None = None
    """The ServiceAccount of head, driver and rank pods, by which clouds grant access to an object
    store. With ``workers.autoscale``, KubeRay gives the account the rights that Ray's autoscaler
    needs. Default: KubeRay makes an account for the autoscaler, and pods use the default account of
    the namespace.
    """
    token_secret: ObjectName | None = None
    """A Secret whose key ``auth_token`` is the token of Ray's API. Default: KubeRay makes a token,
    and with every new cluster of a service another one."""
    read_only_root: bool = False
    """Whether the file system of the image is read-only; /tmp is then a scratch directory, and the
    home directory too."""
    lock_memory: bool = False
    """Whether rank pods may lock memory (IPC_LOCK), as RDMA needs it. The Pod Security Standard
    ``restricted`` refuses such pods."""
