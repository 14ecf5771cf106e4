"""Tiny mixtures of experts of the families that differ in router, names or shared experts."""

from pathlib import Path
from typing import Any

from moe.config.model import ModelConfig, MoeConfig
from moe.surgery.initialise import initialise
from tests import tiny

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 24,
    "layers": 3,
    "heads": 4,
    "kv_heads": 2,
    "head_size": 6,
    "norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_positions": 256,
    "tie_embeddings": False,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_ids": (2,),
}
SKYWORK = ModelConfig("skywork_moe", ffn_size=20, moe=MoeConfig(6, 2, 20, gate_norm=1.0), **SIZES)
DEEPSEEK = ModelConfig(
    "deepseek",
    ffn_size=40,
    moe=MoeConfig(6, 2, 12, renormalise=False, dense_layers=(0,), shared_size=24),
    **SIZES,
)
RAYMOE = ModelConfig(
    "raymoe",
    ffn_size=40,
    moe=MoeConfig(8, 2, 12, score="sigmoid", balance_bias=True, groups=2, top_groups=1, scale=2.5),
    **SIZES,
)
FAMILIES = ("mixtral", "qwen2_moe", "skywork_moe", "deepseek", "raymoe")
"""Mixtral and Qwen as transformers writes them, the others with random weights of ours."""

_OURS = {"skywork_moe": SKYWORK, "deepseek": DEEPSEEK, "raymoe": RAYMOE}


def made(family: str, to: Path) -> Path:
    """Write the mixture of a family into a new directory."""
    if family in _OURS:
        initialise(_OURS[family], to, seed=0)
        return to
    count = "num_local_experts" if family == "mixtral" else "num_experts"
    return tiny.saved(tiny.model(family, **{count: 6}), to)
