"""Mixtral: experts of full size in every layer, weights of the top-k renormalised."""

from typing import Any

from moe.config.families.decoder import read_decoder, read_window
from moe.config.families.defaults import filled
from moe.config.families.experts import expert_count
from moe.config.model import ModelConfig, MoeConfig
from moe.config.values import Table, count, require

HOLDS = frozenset({"sliding_window"})
DEFAULTS: Table = {
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "num_experts_per_tok": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def read_mixtral(table: Table) -> ModelConfig:
    """Return the architecture."""
    require(table, "router_jitter_noise", 0.0)
    table = filled(table, DEFAULTS)
    moe = MoeConfig(
        experts=expert_count(table, 8),
        top_k=count(table, "num_experts_per_tok"),
        expert_size=count(table, "intermediate_size"),
    )
    return read_decoder(
        table, family="mixtral", default_theta=1e6, sliding_window=read_window(table), moe=moe
    )


def mixtral_table(config: ModelConfig) -> dict[str, Any]:
    """Return the keys that only this family has."""
    assert config.moe is not None
    return {
        "architectures": ["MixtralForCausalLM"],
        "intermediate_size": config.moe.expert_size,
        "num_local_experts": config.moe.experts,
        "num_experts_per_tok": config.moe.top_k,
        "router_jitter_noise": 0.0,
        "sliding_window": config.sliding_window,
    }
