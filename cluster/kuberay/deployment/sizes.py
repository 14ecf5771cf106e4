"""Pods whose size does not follow from the plan: the head pod and the driver pod."""

from pydantic import Field

from cluster.kuberay.deployment.names import Labels
from cluster.kuberay.deployment.taints import Toleration
from moe.config.section import Section

GIB = 2**30


class PodSize(Section):
    """CPUs and memory of a pod, and the Kubernetes nodes on which it may run."""

    cpus: int = Field(gt=0)
    """CPUs: both the request and the limit."""
    memory_gib: int = Field(gt=0)
    """Memory in GiB: both the request and the limit."""
    disk_gib: int = Field(default=10, gt=0)
    """Disk of the node in GiB, for logs and packages: both the request and the limit."""
    node_selector: Labels = Field(default={})
    """Labels of the Kubernetes nodes on which the pod may run; empty: any node."""
    tolerations: list[Toleration] = Field(default=[])
    """Taints that the pod tolerates."""

    @property
    def memory_bytes(self) -> int:
        """Memory in bytes."""
        return self.memory_gib * GIB


class HeadSection(PodSize):
    """The pod of Ray's head. It holds no tensors, but the whole Ray cluster ends when this pod
    ends.
    """

    cpus: int = Field(default=2, gt=0)
    memory_gib: int = Field(default=6, gt=0)


class DriverSection(PodSize):
    """The pod that drives the ranks: Ray Train's workers, or the replica of Ray Serve."""

    cpus: int = Field(default=1, gt=0)
    memory_gib: int = Field(default=4, gt=0)
    """Memory in GiB. One process drives all replicas, whatever their number: Ray Train's worker of
    about 0.4 GiB, or the replica of Ray Serve with the tokenizer."""
