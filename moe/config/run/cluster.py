"""What a run runs on: its plan and the Ray cluster."""

from pydantic import Field, model_validator

from moe.config.run.section import Location, Section


class PlanSection(Section):
    """A plan file, or the shape of the plan to make for this cluster."""

    path: Location | None = None
    stages: int = Field(default=1, gt=0)
    gang: int = Field(default=1, gt=0)
    threads: int = Field(default=1, gt=0)
    """Cores of each rank on nodes without GPUs."""
    chunks: int = Field(default=1, gt=0)
    """Runs of layers of each stage; with several, stages wait less but send more."""

    @model_validator(mode="after")
    def _file_or_shape(self) -> "PlanSection":
        shape = (self.stages, self.gang, self.threads, self.chunks)
        if self.path is not None and shape != (1, 1, 1, 1):
            raise ValueError("plan.path names a whole plan; remove the other keys of [plan]")
        return self


class ClusterSection(Section):
    """The Ray cluster and the deadlines of everything that waits on it, in seconds."""

    address: str = "local"
    """``local`` starts Ray here; otherwise the address of a cluster, or ``auto``."""
    cpus: int | None = Field(default=None, gt=0)
    """Logical CPUs of a Ray started here, more than its cores if need be; default one per core."""
    launch_seconds: float = Field(default=180.0, gt=0)
    step_seconds: float = Field(default=1800.0, gt=0)
    group_seconds: float = Field(default=120.0, gt=0)
    max_failures: int = Field(default=2, ge=0)
    """Restarts of the driving worker by Ray Train before the run fails."""

    @model_validator(mode="after")
    def _cpus_of_a_local_ray(self) -> "ClusterSection":
        if self.cpus is not None and self.address != "local":
            raise ValueError(f"cpus is for a Ray started here, but address is {self.address}")
        return self
