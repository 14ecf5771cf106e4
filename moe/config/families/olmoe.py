"""OLMoE: small experts in every layer, queries and keys normalised over all heads together."""

from typing import Any

from moe.config.families.decoder import read_decoder, refuse_one_bias, refuse_other
from moe.config.families.defaults import filled
from moe.config.families.experts import expert_count
from moe.config.model import ModelConfig, MoeConfig
from moe.config.values import Table, count, flag, require
from moe.errors import ConfigError

HOLDS = frozenset({"attention_bias", "output_bias", "query_key_norm", "renormalise"})
DEFAULTS: Table = {
    "max_position_embeddings": 4096,
    "num_experts_per_tok": 8,
    "eos_token_id": 50279,
    "pad_token_id": 1,
}


def read_olmoe(table: Table) -> ModelConfig:
    """Return the architecture; without its key, the top-k is not renormalised."""
    require(table, "clip_qkv", None)
    require(table, "sliding_window", None)
    table = filled(table, DEFAULTS)
    bias = flag(table, "attention_bias")
    moe = MoeConfig(
        experts=expert_count(table, 64),
        top_k=count(table, "num_experts_per_tok"),
        expert_size=count(table, "intermediate_size"),
        renormalise=flag(table, "norm_topk_prob"),
    )
    config = read_decoder(
        table,
        family="olmoe",
        attention_bias=bias,
        output_bias=bias,
        query_key_norm="all",
        moe=moe,
    )
    _check_heads(config)
    return config


def olmoe_table(config: ModelConfig) -> dict[str, Any]:
    """Return the keys that only this family has."""
    assert config.moe is not None
    refuse_one_bias(config)
    refuse_other(config, query_key_norm="all")
    _check_heads(config)
    return {
        "architectures": ["OlmoeForCausalLM"],
        "attention_bias": config.attention_bias,
        "clip_qkv": None,
        "intermediate_size": config.moe.expert_size,
        "num_experts": config.moe.experts,
        "num_experts_per_tok": config.moe.top_k,
        "norm_topk_prob": config.moe.renormalise,
    }


def _check_heads(config: ModelConfig) -> None:
    """Raise ConfigError if the norms, which are as wide as the model, do not match the heads."""
    if config.heads * config.head_size != config.hidden_size:
        raise ConfigError(
            f"an olmoe model of hidden size {config.hidden_size} has {config.heads} heads of "
            f"{config.head_size}; the format wants heads x head size = hidden size"
        )
