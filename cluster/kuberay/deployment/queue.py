"""Who admits the pods: a queue of a batch scheduler, and how near to each other they must be."""

from typing import Literal

from pydantic import field_validator, model_validator

from cluster.kuberay.deployment.names import ObjectName
from moe.config.section import Section
from moe.planning.devices.labels import is_label_key, is_label_value


class QueueSection(Section):
    """The queue that admits the pods of an object, all at once or not at all."""

    scheduler: Literal["kueue", "volcano", "yunikorn", "kai", "scheduler-plugins"] = "kueue"
    """Who keeps the queue. All but Kueue must be KubeRay's ``batchScheduler`` too."""
    name: str | None = None
    """The name of the queue; with Kueue a LocalQueue of the namespace. Default: no queue."""
    priority: ObjectName | None = None
    """With Kueue a WorkloadPriorityClass, with Volcano a PriorityClass."""

    @field_validator("name")
    @classmethod
    def _fits_a_label(cls, name: str | None) -> str | None:
        if name is not None and not (name and is_label_value(name)):
            raise ValueError("give at most 63 letters, digits, dashes, underscores and dots")
        return name

    @property
    def given(self) -> bool:
        """Whether there is a queue."""
        return self.name is not None or self.scheduler == "scheduler-plugins"

    @model_validator(mode="after")
    def _priority_has_a_reader(self) -> "QueueSection":
        if self.priority is not None and not (
            self.given and self.scheduler in ("kueue", "volcano")
        ):
            raise ValueError(
                "priority is read by the queues of Kueue and Volcano; give the name of such a "
                "queue, or set pods.priority_class"
            )
        if self.name is not None and self.scheduler == "scheduler-plugins":
            raise ValueError("the scheduler-plugins have no queues; remove name")
        if not self.given and self.scheduler != "kueue":
            raise ValueError(
                f"scheduler = {self.scheduler!r} without a name has no effect; give it"
            )
        return self


class TopologySection(Section):
    """How near to each other the pods of ranks must be: in one rack, in one block, in one zone."""

    label: str | None = None
    """The label of Kubernetes nodes whose value says where they are, like
    ``cloud.provider.com/topology-rack``. Default: pods may be anywhere."""
    unit: Literal["run", "replica"] = "replica"
    """What must be together: all ranks, or those of each replica, by slices of Kueue."""
    required: bool = True
    """Whether the pods wait for such a place, or take the nearest to it."""

    @field_validator("label")
    @classmethod
    def _is_a_label(cls, label: str | None) -> str | None:
        if label is not None and not is_label_key(label):
            raise ValueError("give the key of a label of nodes")
        return label

    @model_validator(mode="after")
    def _of_a_label(self) -> "TopologySection":
        fields = type(self).model_fields
        changed = [key for key in ("unit", "required") if getattr(self, key) != fields[key].default]
        if self.label is None and changed:
            raise ValueError(f"{changed[0]} has no effect without label; give the label of nodes")
        return self
