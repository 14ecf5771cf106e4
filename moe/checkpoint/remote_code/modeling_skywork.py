"""Skywork-13B, the dense parent of Skywork-MoE, for transformers (version 5): Llama renamed."""

# mypy: disallow-untyped-calls=False
from transformers import LlamaForCausalLM

from .configuration_skywork import SkyworkConfig


class SkyworkForCausalLM(LlamaForCausalLM):
    """Llama under the name that the published configuration asks for."""

    config_class = SkyworkConfig
