"""How long a job may take, how long its pods stay, and how a service is replaced."""

from typing import Any, Literal

from pydantic import Field, model_validator

from moe.config.section import Section


class JobSection(Section):
    """The RayJob that trains."""

    start_seconds: int = Field(default=3600, gt=0)
    """Seconds until a job whose pods have not started is given up."""
    deadline_seconds: int | None = Field(default=None, gt=0)
    """Seconds after which a job is ended, finished or not. Default: never."""
    keep_seconds: int = Field(default=60, ge=0)
    """Seconds that the pods of a finished job stay, GPUs included, so that you can inspect them.
    The RayJob object stays afterwards too.
    """
    keep_failed_seconds: int | None = Field(default=None, ge=0)
    """The same for the pods of a job that failed. Default: as long as those of any other."""
    forget_seconds: int | None = Field(default=None, ge=0)
    """Seconds after its end at which the RayJob object itself is deleted. Default: never."""
    retries: int = Field(default=0, ge=0)
    """How often a failed job is started again, each time on new pods. A retry continues from the
    last checkpoint of the run."""

    @property
    def has_rules(self) -> bool:
        """Whether the end of the job needs rules of its own for each way to end."""
        return self.keep_failed_seconds is not None or self.forget_seconds is not None

    @model_validator(mode="after")
    def _forgets_last(self) -> "JobSection":
        longest = max(self.keep_seconds, self.keep_failed_seconds or 0)
        if self.forget_seconds is not None and self.forget_seconds < longest:
            raise ValueError(
                f"forget_seconds is {self.forget_seconds}, before the pods go ({longest} s); "
                "raise it, or keep the pods for less long"
            )
        return self


class ServiceSection(Section):
    """The RayService that answers."""

    model: str | None = Field(default=None, min_length=1)
    """The model directory in the pods that is served. Default: ``model.path`` of the run. A
    relative path starts at ``storage.mount``."""
    arguments: dict[str, Any] = Field(default={})
    """Further arguments of the server, as ``raymoe serve`` has them: ``cache_tokens``, ``weights``,
    ``running``."""
    upgrade: Literal["new-cluster", "incremental", "none"] = "new-cluster"
    """What happens when the object changes: ``new-cluster`` starts a second cluster beside the
    first and then switches to it, so GPUs are needed twice; ``incremental`` moves the traffic in
    steps through a Gateway; ``none`` leaves the running cluster as it is.
    """
    gateway_class: str | None = Field(default=None, min_length=1)
    """With ``incremental``: the GatewayClass that carries the traffic."""
    step_percent: int = Field(default=20, gt=0, le=100)
    """With ``incremental``: the part of the traffic that moves at once, in percent."""
    step_seconds: int = Field(default=30, gt=0)
    """With ``incremental``: seconds between two such moves."""
    surge_percent: int = Field(default=100, ge=0, le=100)
    """With ``incremental``: how much more than the old cluster may run meanwhile, in percent."""
    delete_seconds: int = Field(default=60, ge=0)
    """Seconds that the old cluster stays after the traffic has left it."""
    start_seconds: int | None = Field(default=None, gt=0)
    """Seconds after which a service whose first cluster is not ready is given up, and stays so
    until it is made anew. Default: KubeRay waits for ever."""

    @model_validator(mode="after")
    def _gateway_of_steps(self) -> "ServiceSection":
        incremental = self.upgrade == "incremental"
        if incremental != (self.gateway_class is not None):
            raise ValueError(
                'upgrade = "incremental" moves traffic through a Gateway; give both upgrade and '
                "gateway_class, or neither"
            )
        fields = type(self).model_fields
        for key in ("step_percent", "step_seconds", "surge_percent"):
            if not incremental and getattr(self, key) != fields[key].default:
                raise ValueError(f'{key} is for upgrade = "incremental"; remove it, or set that')
        if self.step_percent > self.surge_percent:
            raise ValueError(
                f"step_percent {self.step_percent} exceeds surge_percent {self.surge_percent}; "
                "lower the step, or allow more surge"
            )
        return self
