"""DeepSeek v1 (DeepSeekMoE) for transformers (version 5).

Section 3 of the DeepSeekMoE paper, which ``experts_raymoe`` computes among others: raw softmax
weights, renormalised only where ``norm_topk_prob`` says so, and shared experts of weight 1.
"""

# mypy: disallow-untyped-calls=False
from .configuration_deepseek import DeepseekConfig
from .modeling_raymoe import RaymoeForCausalLM


class DeepseekForCausalLM(RaymoeForCausalLM):
    """The decoder under the name that the published configuration asks for."""

    config_class = DeepseekConfig
