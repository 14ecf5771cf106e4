"""Mixtral: experts of full size in every layer, weights of the top-k renormalised."""

from typing import Any

from moe.config.families.decoder import read_decoder
from moe.config.model import ModelConfig, MoeConfig
from moe.config.values import Table, count, require

HOLDS: frozenset[str] = frozenset()


def read_mixtral(table: Table) -> ModelConfig:
    """Return the architecture."""
    require(table, "router_jitter_noise", 0.0)
    require(table, "sliding_window", None)
    moe = MoeConfig(
        experts=count(table, "num_local_experts"),
        top_k=count(table, "num_experts_per_tok"),
        expert_size=count(table, "intermediate_size"),
    )
    return read_decoder(table, family="mixtral", default_theta=1e6, moe=moe)


def mixtral_table(config: ModelConfig) -> dict[str, Any]:
    """Return the keys that only this family has."""
    assert config.moe is not None
    return {
        "architectures": ["MixtralForCausalLM"],
        "intermediate_size": config.moe.expert_size,
        "num_local_experts": config.moe.experts,
        "num_experts_per_tok": config.moe.top_k,
        "router_jitter_noise": 0.0,
        "sliding_window": None,
    }
