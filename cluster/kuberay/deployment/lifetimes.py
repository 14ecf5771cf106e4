"""How long a job may take to start, what is kept of it, and how a service is replaced."""

from typing import Literal

from pydantic import Field

from moe.config.section import Section


class JobSection(Section):
    """The RayJob that trains."""

    start_seconds: int = Field(default=3600, gt=0)
    """A job whose pods have not started by then is given up."""
    keep_seconds: int = Field(default=60, ge=0)
    """How long the pods of a finished job stay, GPUs included, for you to look at them. The RayJob
    object stays afterwards too."""
    retries: int = Field(default=0, ge=0)
    """How often a failed job is started again, each time on new pods. A retry continues from the
    last checkpoint of the run."""


class ServiceSection(Section):
    """The RayService that answers."""

    upgrade: Literal["new-cluster", "none"] = "new-cluster"
    """What a change of the object does: ``new-cluster`` starts a second cluster beside the first
    and then switches over, which takes the GPUs twice; ``none`` leaves the
    running cluster as it is."""
