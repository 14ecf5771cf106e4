"""Qwen3: Llama whose queries and keys are normalised head by head."""

from typing import Any

from moe.config.families.decoder import read_decoder, refuse_one_bias, refuse_other
from moe.config.families.defaults import filled
from moe.config.model import ModelConfig
from moe.config.values import Table, flag, require

HOLDS = frozenset({"attention_bias", "output_bias", "query_key_norm"})
DEFAULTS: Table = {
    "num_key_value_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 32768,
}


def read_qwen3(table: Table) -> ModelConfig:
    """Return the architecture; one key gives the biases of all four attention projections."""
    require(table, "use_sliding_window", False)
    bias = flag(table, "attention_bias")
    return read_decoder(
        filled(table, DEFAULTS),
        family="qwen3",
        attention_bias=bias,
        output_bias=bias,
        query_key_norm="head",
    )


def qwen3_table(config: ModelConfig) -> dict[str, Any]:
    """Return the keys that only this family has."""
    refuse_one_bias(config)
    refuse_other(config, query_key_norm="head")
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": config.attention_bias,
        "use_sliding_window": False,
    }
