"""The settings that keep the experts of a run evenly loaded."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from moe.config.section import Section


class AdaptiveCoefficient(Section):
    """Skywork-MoE section 4.2: alpha follows the drop rate of its layer."""

    type: Literal["adaptive"] = "adaptive"
    xi: float = Field(default=0.2, gt=0)
    maximum: float = Field(default=0.01, gt=0)
    beta: float = Field(default=0.99, ge=0, lt=1)
    start: float = Field(default=0.01, ge=0)

    @model_validator(mode="after")
    def _starts_within_reach(self) -> "AdaptiveCoefficient":
        if self.start > self.maximum:
            raise ValueError(
                f"start {self.start:g} is above maximum {self.maximum:g}, the limit of alpha; "
                "lower start or raise maximum"
            )
        return self


class FixedCoefficient(Section):
    """One alpha for every layer and step."""

    type: Literal["fixed"]
    value: float = Field(ge=0)


class BiasCoefficient(Section):
    """DeepSeek-V3 section 2.1.2: a bias on the choice of experts, moved against the load."""

    type: Literal["bias"]
    rate: float = Field(default=0.001, gt=0)
    """Size of the change of an expert's bias in one step."""
    value: float = Field(default=0.0, ge=0)
    """Coefficient of the balance loss used with the bias, the same for every layer and step."""


Coefficient = AdaptiveCoefficient | FixedCoefficient | BiasCoefficient


class BalanceSection(Section):
    """The auxiliary router losses, computed per layer, and their controls."""

    loss: Literal["skywork", "switch"] = "skywork"
    scope: Literal["micro-batch", "sequence", "global-batch"] = "micro-batch"
    """The tokens over which the load should be even; ``global-batch`` uses the load of the previous
    step.
    """
    coefficient: Annotated[Coefficient, Field(discriminator="type")] = AdaptiveCoefficient()
    device_loss: float = Field(default=0.0, ge=0)
    """Coefficient of the balance loss over groups of experts (DeepSeekMoE section 3.3)."""
    device_groups: int = Field(default=1, gt=0)
    """Groups of consecutive experts that ``device_loss`` keeps even; one for each device."""
    z_loss: float = Field(default=0.0, ge=0)
    """Coefficient of the loss that keeps gate logits small (ST-MoE)."""

    @field_validator("coefficient", mode="before")
    @classmethod
    def _adaptive_unless_named(cls, value: Any) -> Any:
        return {"type": "adaptive", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _groups_of_a_loss(self) -> "BalanceSection":
        if (self.device_loss > 0) != (self.device_groups > 1):
            raise ValueError(
                f"device_loss is {self.device_loss:g} over device_groups {self.device_groups}; it "
                "takes a coefficient above 0 and at least 2 groups, or neither"
            )
        return self

    @model_validator(mode="after")
    def _shape_of_a_loss(self) -> "BalanceSection":
        """Raise if options shape a loss whose coefficient is 0; the device loss also uses the
        scope.
        """
        if isinstance(self.coefficient, AdaptiveCoefficient) or self.coefficient.value > 0:
            return self
        shaping = ("loss",) if self.device_loss > 0 else ("loss", "scope")
        if any(getattr(self, key) != type(self).model_fields[key].default for key in shaping):
            raise ValueError(
                "the coefficient of the balance loss is 0, so there is no loss to shape; remove "
                f"{' and '.join(shaping)}, or give coefficient.value"
            )
        return self
