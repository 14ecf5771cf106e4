"""The pods that hold the ranks; their number, CPUs, memory and GPUs come from the plan."""

from typing import Literal

from pydantic import Field, model_validator

from cluster.kuberay.deployment.names import Labels
from moe.config.section import Section
from moe.planning.devices.labels import is_label_key


class Toleration(Section):
    """A taint of Kubernetes nodes that rank pods tolerate, such as the taint of spot nodes."""

    key: str
    """The key of the taint."""
    value: str | None = None
    """The value of the taint. Default: any value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The effect of the taint. Default: every effect."""

    @model_validator(mode="after")
    def _is_a_taint(self) -> "Toleration":
        if not is_label_key(self.key):
            raise ValueError(
                f"{self.key!r} is not a key of a taint; give one like example.com/spot"
            )
        return self


class WorkersSection(Section):
    """The pods that hold the ranks, one for every gang of the plan."""

    gpu_resource: str = "nvidia.com/gpu"
    """The resource by which Kubernetes counts the GPUs of the plan. Rank pods with GPUs also
    tolerate a NoSchedule taint of this name."""
    node_selectors: dict[str, Labels] = Field(default={})
    """Labels of the Kubernetes nodes to use, for each device kind that the plan names; ``cpu`` is
    the kind of a rank without a GPU.
    """
    tolerations: list[Toleration] = Field(default=[])
    """Taints that rank pods tolerate, in addition to the taint of their GPUs."""
    autoscale: bool = False
    """Start with no rank pods and let Ray's autoscaler start them when actors ask for them."""
    idle_seconds: int = Field(default=300, ge=0)
    """Seconds that a rank pod may be idle before the autoscaler removes it."""

    @model_validator(mode="after")
    def _idle_means_autoscale(self) -> "WorkersSection":
        default = type(self).model_fields["idle_seconds"].default
        if self.idle_seconds != default and not self.autoscale:
            raise ValueError(
                "idle_seconds has no effect without autoscale = true; remove it, or set autoscale"
            )
        return self
