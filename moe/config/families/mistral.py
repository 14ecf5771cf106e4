"""Mistral: Llama without biases; its first models have a sliding window."""

from typing import Any

from moe.config.families.decoder import read_decoder, read_window
from moe.config.families.defaults import filled
from moe.config.model import ModelConfig
from moe.config.values import Table

HOLDS = frozenset({"sliding_window"})
DEFAULTS: Table = {
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def read_mistral(table: Table) -> ModelConfig:
    """Return the architecture; an omitted window is 4096, null is no window."""
    table = filled(table, DEFAULTS)
    return read_decoder(table, family="mistral", sliding_window=read_window(table))


def mistral_table(config: ModelConfig) -> dict[str, Any]:
    """Return the keys that only this family has."""
    return {"architectures": ["MistralForCausalLM"], "sliding_window": config.sliding_window}
