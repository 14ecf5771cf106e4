"""The architecture of a Skywork-MoE model for transformers (version 5)."""

# mypy: disallow-untyped-calls=False
from typing import ClassVar

from transformers import MixtralConfig


class SkyworkMoeConfig(MixtralConfig):
    """Mixtral's sizes, and how each token's gate logits become weights."""

    model_type = "skywork_moe"
    default_theta = 10000.0
    attribute_map: ClassVar[dict[str, str]] = {}

    num_experts: list[int] | int | None = None
    num_local_experts: int = 0
    moe_use_logits_norm: bool = False
    moe_gate_norm_std: float | int = 1.0
    moe_use_skywork_gating: bool = False

    def __post_init__(self, **kwargs: object) -> None:
        if not self.num_local_experts and self.num_experts:
            counts = self.num_experts
            self.num_local_experts = counts[0] if isinstance(counts, list) else counts
        super().__post_init__(**kwargs)
