"""Qwen2-MoE: experts and a gated shared expert; some layers are dense."""

from typing import Any

from moe.config.families.decoder import read_decoder, refuse_other
from moe.config.families.defaults import filled
from moe.config.families.qwen import experts_table, read_experts
from moe.config.model import ModelConfig
from moe.config.values import Table, count, flag

HOLDS = frozenset({"attention_bias", "renormalise", "dense_layers", "shared_size", "shared_gate"})
DEFAULTS: Table = {
    "num_key_value_heads": 16,
    "max_position_embeddings": 32768,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "qkv_bias": True,
}


def read_qwen2_moe(table: Table) -> ModelConfig:
    """Return the architecture; without a key, queries, keys and values have biases."""
    table = filled(table, DEFAULTS)
    shared_size = count(table, "shared_expert_intermediate_size")
    return read_decoder(
        table,
        family="qwen2_moe",
        attention_bias=flag(table, "qkv_bias"),
        moe=read_experts(table, 60, shared_size=shared_size, shared_gate=True),
    )


def qwen2_moe_table(config: ModelConfig) -> dict[str, Any]:
    """Return the keys that only this family has."""
    assert config.moe is not None
    refuse_other(config, shared_gate=True)
    return experts_table(config.moe) | {
        "architectures": ["Qwen2MoeForCausalLM"],
        "qkv_bias": config.attention_bias,
        "shared_expert_intermediate_size": config.shared_size,
    }
