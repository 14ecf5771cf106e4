"""A small model of our own family, which has every option of routing."""

from typing import Any

from moe.config.model import ModelConfig, MoeConfig


def routed(layers: int = 3, **options: Any) -> ModelConfig:
    """Return the architecture; ``options`` are those of ``MoeConfig``."""
    return ModelConfig(
        family="raymoe",
        vocab_size=97,
        hidden_size=24,
        layers=layers,
        heads=6,
        kv_heads=3,
        head_size=8,
        ffn_size=40,
        norm_eps=1e-6,
        rope_theta=1e4,
        max_positions=256,
        tie_embeddings=True,
        moe=MoeConfig(**({"experts": 4, "top_k": 2, "expert_size": 20} | options)),
    )
