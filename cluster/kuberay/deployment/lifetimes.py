"""How long a job may take to start, how long its pods stay, and how a service is replaced."""

from typing import Literal

from pydantic import Field

from moe.config.section import Section


class JobSection(Section):
    """The RayJob that trains."""

    start_seconds: int = Field(default=3600, gt=0)
    """Seconds until a job whose pods have not started is given up."""
    keep_seconds: int = Field(default=60, ge=0)
    """Seconds that the pods of a finished job stay, GPUs included, so that you can inspect them.
    The RayJob object stays afterwards too.
    """
    retries: int = Field(default=0, ge=0)
    """How often a failed job is started again, each time on new pods. A retry continues from the
    last checkpoint of the run."""


class ServiceSection(Section):
    """The RayService that answers."""

    upgrade: Literal["new-cluster", "none"] = "new-cluster"
    """What happens when the object changes: ``new-cluster`` starts a second cluster beside the
    first and then switches to it, so GPUs are needed twice; ``none`` leaves the running cluster as
    it is.
    """
