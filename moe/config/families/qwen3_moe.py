"""Qwen3-MoE: many small experts, queries and keys normalised head by head, some layers dense."""

from typing import Any

from moe.config.families.decoder import read_decoder, refuse_one_bias, refuse_other
from moe.config.families.defaults import filled
from moe.config.families.qwen import experts_table, read_experts
from moe.config.model import ModelConfig
from moe.config.values import Table, flag

HOLDS = frozenset(
    {"attention_bias", "output_bias", "query_key_norm", "renormalise", "dense_layers"}
)
DEFAULTS: Table = {
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
}


def read_qwen3_moe(table: Table) -> ModelConfig:
    """Return the architecture; one key gives the biases of all four attention projections."""
    table = filled(table, DEFAULTS)
    bias = flag(table, "attention_bias")
    return read_decoder(
        table,
        family="qwen3_moe",
        attention_bias=bias,
        output_bias=bias,
        query_key_norm="head",
        moe=read_experts(table, 128),
    )


def qwen3_moe_table(config: ModelConfig) -> dict[str, Any]:
    """Return the keys that only this family has."""
    assert config.moe is not None
    refuse_one_bias(config)
    refuse_other(config, query_key_norm="head")
    return experts_table(config.moe) | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": config.attention_bias,
    }
