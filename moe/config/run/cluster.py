"""What a run runs on: its plan and the Ray cluster."""

from pydantic import Field, model_validator

from moe.config.section import LocalPath, Section


class PlanSection(Section):
    """A plan file, or the shape of the plan to make for this cluster."""

    path: LocalPath | None = None
    stages: int = Field(default=1, gt=0)
    gang: int = Field(default=1, gt=0)
    threads: int = Field(default=1, gt=0)
    """Cores of each rank on nodes without GPUs."""
    chunks: int = Field(default=1, gt=0)
    """Spans of layers of each stage; several reduce pipeline bubbles but send more messages."""
    replicas: int = Field(default=1, gt=0)
    """Copies of the whole pipeline, which share the sequences of every step."""
    least_replicas: int | None = Field(default=None, gt=0)
    """The fewest replicas that the run continues with when workers are short; None: all of them."""

    @model_validator(mode="after")
    def _file_or_shape(self) -> "PlanSection":
        shape = (self.stages, self.gang, self.threads, self.chunks, self.replicas)
        if self.path is not None and shape != (1, 1, 1, 1, 1):
            raise ValueError(
                "plan.path names a whole plan; remove the other keys of [plan] except "
                "least_replicas"
            )
        return self

    @model_validator(mode="after")
    def _least_of_several(self) -> "PlanSection":
        if self.path is None and (self.least_replicas or 0) > self.replicas:
            raise ValueError(
                f"least_replicas is {self.least_replicas}, more than replicas = {self.replicas}; "
                "lower it"
            )
        return self


class ClusterSection(Section):
    """The Ray cluster and the deadlines of everything that waits on it, in seconds."""

    address: str = "local"
    """``local`` starts Ray here; otherwise the address of a cluster, or ``auto``."""
    cpus: int | None = Field(default=None, gt=0)
    """Logical CPUs of a Ray started here, which may be more than the cores; None: one per core."""
    launch_seconds: float = Field(default=180.0, gt=0)
    step_seconds: float = Field(default=1800.0, gt=0)
    group_seconds: float = Field(default=120.0, gt=0)
    max_failures: int = Field(default=2, ge=0)
    """Restarts of the driving workers by Ray Train before the run fails."""
    worker_resources: dict[str, float] = Field(default={})
    """Custom resources that the worker of each replica takes. From plan.least_replicas up to all,
    as many replicas train as the cluster has these resources for, as nodes come and go."""
    resize_seconds: float = Field(default=60.0, gt=0)
    """Seconds between two checks for the resources of more replicas."""

    @model_validator(mode="after")
    def _positive_resources(self) -> "ClusterSection":
        wrong = {name: amount for name, amount in self.worker_resources.items() if amount <= 0}
        if wrong or self.worker_resources.keys() & {"CPU", "GPU", "memory"}:
            raise ValueError(
                "worker_resources takes custom resources in amounts above 0; workers compute "
                f"nothing, so they take no CPU, GPU or memory; found {self.worker_resources}"
            )
        return self

    @model_validator(mode="after")
    def _cpus_of_a_local_ray(self) -> "ClusterSection":
        if self.cpus is not None and self.address != "local":
            raise ValueError(f"cpus is for a Ray started here, but address is {self.address}")
        return self
