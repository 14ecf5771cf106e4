"""Skywork-MoE for transformers (version 5): Mixtral with another gate.

Per token over all n experts, section 4.1 of the Skywork-MoE report::

    z  = W x
    g  = softmax(lambda * (z - mean(z)) / std(z))      std unbiased
    w_j = g_j / sum of g over the k largest

``moe_use_skywork_gating`` takes the softmax over the k largest z alone: the same weights, rounded
otherwise.
"""

# mypy: disallow-untyped-calls=False
import torch
from torch import Tensor
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM, MixtralTopKRouter

from .configuration_skywork_moe import SkyworkMoeConfig

STD_EPSILON = 1e-6

register_checkpoint_conversion_mapping(
    SkyworkMoeConfig.model_type, get_checkpoint_conversion_mapping("mixtral"), overwrite=True
)


class SkyworkMoeGate(MixtralTopKRouter):
    """The gate, in float32 whatever the model's precision."""

    def __init__(self, config: SkyworkMoeConfig) -> None:
        super().__init__(config)
        self.norm = config.moe_gate_norm_std if config.moe_use_logits_norm else None
        self.softmax_after = config.moe_use_skywork_gating

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, and the weights and numbers of the chosen experts."""
        tokens = hidden_states.reshape(-1, self.hidden_dim).float()
        logits = torch.nn.functional.linear(tokens, self.weight.float())
        if self.norm is not None and self.num_experts > 1:
            variance = logits.var(dim=-1, keepdim=True)
            logits = logits * self.norm * torch.rsqrt(variance + STD_EPSILON**2)
        if self.softmax_after:
            chosen, experts = logits.topk(self.top_k, dim=-1)
            return logits, chosen.softmax(dim=-1), experts
        weights, experts = logits.softmax(dim=-1).topk(self.top_k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return logits, weights, experts


class SkyworkForCausalLM(MixtralForCausalLM):
    """Mixtral whose every layer has the gate above."""

    config_class = SkyworkMoeConfig

    def __init__(self, config: SkyworkMoeConfig) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            layer.mlp.gate = SkyworkMoeGate(config)
        self.post_init()
