"""Taints of Kubernetes nodes that pods tolerate."""

from typing import Literal

from pydantic import model_validator

from moe.config.section import Section
from moe.planning.devices.labels import is_label_key


class Toleration(Section):
    """A taint of Kubernetes nodes that pods tolerate, such as the taint of spot nodes."""

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
