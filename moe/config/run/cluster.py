"""The plan and the Ray cluster of a run."""

from pydantic import Field, model_validator

from moe.config.section import LocalPath, Section


class PlanSection(Section):
    """A plan file, or the shape of a plan that is made for this cluster."""

    path: LocalPath | None = None
    profile: LocalPath | None = None
    """Measurements that ``raymoe profile`` wrote; without them each kind of node is probed for
    about two seconds before a plan is made.
    """
    stages: int = Field(default=1, gt=0)
    gang: int = Field(default=1, gt=0)
    threads: int = Field(default=1, gt=0)
    """Cores of each rank on nodes without GPUs."""
    chunks: int = Field(default=1, gt=0)
    """Spans of layers of each stage; several reduce pipeline bubbles but send more messages."""
    replicas: int = Field(default=1, gt=0)
    """Number of data parallel replicas of the pipeline; they share the sequences of every step."""
    least_replicas: int | None = Field(default=None, gt=0)
    """The smallest number of replicas with which the run starts and continues if the cluster has no
    room for more; None: all replicas.
    """

    @model_validator(mode="after")
    def _file_or_shape(self) -> "PlanSection":
        shape = (self.stages, self.gang, self.threads, self.chunks, self.replicas, self.profile)
        if self.path is not None and shape != (1, 1, 1, 1, 1, None):
            raise ValueError(
                "plan.path names a complete plan; remove the other keys of [plan] except "
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
    """The Ray cluster and its deadlines in seconds."""

    address: str = "local"
    """``local`` starts Ray here; otherwise the address of a cluster, or ``auto``."""
    cpus: int | None = Field(default=None, gt=0)
    """Logical CPUs of a local Ray cluster, which may exceed the cores; None: one per core."""
    wait_seconds: float | None = Field(default=None, ge=0)
    """Seconds that a launch waits until the cluster has room for the plan; it asks the autoscaler
    for nodes meanwhile. None: 20 minutes in a Ray job, whose pods may be on their way; elsewhere a
    plan without room is refused at once.
    """
    launch_seconds: float = Field(default=180.0, gt=0)
    step_seconds: float = Field(default=1800.0, gt=0)
    group_seconds: float = Field(default=120.0, gt=0)
    max_failures: int = Field(default=2, ge=0)
    """Number of restarts of the driver by Ray Train before the run fails. The driver holds no
    tensors; what losses of ranks the run mends is ``elastic.max_failures``.
    """
    driver_labels: dict[str, str] = Field(default={})
    """Labels that the Ray node of the driver must have, each with a value or a selector of Ray:
    ``v``, ``!v``, ``in(v,w)``. Empty: any node. ``raymoe kube`` fills in those of its driver pod.
    """

    @model_validator(mode="after")
    def _cpus_of_a_local_ray(self) -> "ClusterSection":
        if self.cpus is not None and self.address != "local":
            raise ValueError(f"cpus is for a Ray started here, but address is {self.address}")
        return self
