"""How tokens reach experts while a run trains."""

from typing import Literal

from pydantic import Field, model_validator

from moe.config.section import Section


class RoutingSection(Section):
    """How tokens reach experts while training."""

    choose: Literal["tokens", "experts"] = "tokens"
    """Who chooses: each token its best experts, or each expert its best tokens (Zhou et al. 2022).
    Evaluation and inference always let tokens choose."""
    capacity_factor: float | None = Field(default=None, gt=0)
    """Slots of an expert as a multiple of the mean load; None drops no token, or is 1 if experts
    choose.
    """
    drop_policy: Literal["probability", "position"] = "probability"
    virtual_capacity_factor: float = Field(default=1.0, gt=0)
    """Capacity factor at which a dropless run measures a virtual drop rate."""

    reweigh: bool = True
    """Whether the pairs that survive a capacity share the full weight of their token, if weights
    sum to one; Megatron leaves weights unchanged.
    """

    @model_validator(mode="after")
    def _one_capacity(self) -> "RoutingSection":
        if self.choose == "experts":
            return self._only_slots()
        if self.capacity_factor is None and self.drop_policy != "probability":
            raise ValueError(f"drop_policy {self.drop_policy} needs a capacity_factor")
        if self.capacity_factor is None and not self.reweigh:
            raise ValueError("without a capacity_factor nothing is dropped; remove reweigh")
        if self.capacity_factor is not None and self.virtual_capacity_factor != 1.0:
            raise ValueError(
                "with a capacity_factor the drop rate is real; remove virtual_capacity_factor"
            )
        return self

    def _only_slots(self) -> "RoutingSection":
        found = (self.drop_policy, self.virtual_capacity_factor, self.reweigh)
        if found != ("probability", 1.0, True):
            raise ValueError(
                "experts choose by probability until they are full, so drop_policy, "
                "virtual_capacity_factor and reweigh have no effect; remove them"
            )
        return self
