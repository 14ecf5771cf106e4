"""The head pod and the driver pod, which hold no ranks."""

from pydantic import Field

from cluster.kuberay.deployment.names import Labels
from cluster.kuberay.deployment.taints import Toleration
from moe.config.section import Section

GIB = 2**30


class PodPlace(Section):
    """The disk of a pod, and the Kubernetes nodes on which it may run."""

    disk_gib: int = Field(default=10, gt=0)
    """Disk of the node in GiB, for logs and packages: both the request and the limit."""
    node_selector: Labels = Field(default={})
    """Labels of the Kubernetes nodes on which the pod may run; empty: any node."""
    tolerations: list[Toleration] = Field(default=[])
    """Taints that the pod tolerates."""


class HeadSection(PodPlace):
    """The pod of Ray's head. It holds no tensors, but the whole Ray cluster ends when this pod
    ends.
    """

    cpus: int = Field(default=2, gt=0)
    """CPUs: both the request and the limit."""
    memory_gib: int = Field(default=6, gt=0)
    """Memory in GiB: both the request and the limit."""

    @property
    def memory_bytes(self) -> int:
        """Memory in bytes."""
        return self.memory_gib * GIB


class DriverSection(PodPlace):
    """The pod that drives the ranks: Ray Train's worker, or the replicas of Ray Serve."""

    cpus: int | None = Field(default=None, gt=0)
    """CPUs: both the request and the limit. Default: by what is in the pod (``driver_size``)."""
    memory_gib: int | None = Field(default=None, gt=0)
    """Memory in GiB: both the request and the limit. Default: by what is in the pod."""
