"""The pods that hold the ranks; their number, CPUs, memory and GPUs come from the plan."""

from pydantic import Field, field_validator, model_validator

from cluster.kuberay.deployment.names import Labels
from cluster.kuberay.deployment.taints import Toleration
from moe.config.section import Section
from moe.planning.devices.labels import is_label_key


class WorkersSection(Section):
    """The pods that hold the ranks, one for every gang of the plan."""

    gpu_resource: str | None = None
    """The resource by which Kubernetes counts the GPUs of the plan. Rank pods with GPUs also
    tolerate a NoSchedule taint of this name. Default: ``nvidia.com/gpu`` or ``amd.com/gpu``, by
    the kind of the GPUs."""
    node_selectors: dict[str, Labels] = Field(default={})
    """Labels of the Kubernetes nodes to use, for each device kind that the plan names; ``cpu`` is
    the kind of a rank without a GPU.
    """
    tolerations: list[Toleration] = Field(default=[])
    """Taints that rank pods tolerate, in addition to the taint of their GPUs."""
    disk_gib: int = Field(default=10, gt=0)
    """Disk of the node in GiB, for logs and packages: both the request and the limit. Checkpoints
    do not pass through it."""
    devices: dict[str, int] = Field(default={})
    """Further resources of each rank pod, by name, such as network cards for RDMA:
    ``"rdma/hca" = 1``."""
    autoscale: bool = False
    """Start with no rank pods and let Ray's autoscaler start them when actors ask for them."""
    idle_seconds: int = Field(default=300, ge=0)
    """Seconds that a rank pod may be idle before the autoscaler removes it."""

    @field_validator("devices")
    @classmethod
    def _are_resources(cls, devices: dict[str, int]) -> dict[str, int]:
        for name, amount in devices.items():
            if "/" not in name or not is_label_key(name) or amount < 1:
                raise ValueError(
                    f"{name} = {amount} is no device; give a name like rdma/hca and how many"
                )
        return devices

    @model_validator(mode="after")
    def _idle_means_autoscale(self) -> "WorkersSection":
        default = type(self).model_fields["idle_seconds"].default
        if self.idle_seconds != default and not self.autoscale:
            raise ValueError(
                "idle_seconds has no effect without autoscale = true; remove it, or set autoscale"
            )
        return self
