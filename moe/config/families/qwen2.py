"""Qwen2: Llama whose queries, keys and values always have biases."""

from typing import Any

from moe.config.families.decoder import read_decoder, refuse_other
from moe.config.families.defaults import filled
from moe.config.model import ModelConfig
from moe.config.values import Table, require

HOLDS = frozenset({"attention_bias"})
DEFAULTS: Table = {"num_key_value_heads": 32, "max_position_embeddings": 32768}


def read_qwen2(table: Table) -> ModelConfig:
    """Return the architecture; the size of a disabled window is ignored."""
    require(table, "use_sliding_window", False)
    return read_decoder(filled(table, DEFAULTS), family="qwen2", attention_bias=True)


def qwen2_table(config: ModelConfig) -> dict[str, Any]:
    """Return the keys that only this family has."""
    refuse_other(config, attention_bias=True)
    return {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False}
