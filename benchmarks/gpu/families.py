"""Small models of every family, and every option of routing, for comparing devices.

All sizes are multiples of 16 bytes in bf16, as the grouped products of a GPU ask.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from moe.config.model import ModelConfig, MoeConfig
from moe.nn.balance import Balance
from moe.nn.decoder import PLAIN, Pass
from moe.nn.dispatch import Capacity

_DENSE = ModelConfig(
    family="llama",
    vocab_size=128,
    hidden_size=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_size=16,
    ffn_size=96,
    norm_eps=1e-5,
    rope_theta=1e4,
    max_positions=64,
    tie_embeddings=True,
)
_MOE = MoeConfig(experts=8, top_k=2, expert_size=32)
_MIXTRAL = replace(_DENSE, ffn_size=32).with_moe(_MOE, "mixtral")
_RAW = replace(_MOE, renormalise=False)

FAMILIES = {
    "llama": _DENSE,
    "mistral": replace(_DENSE, family="mistral", sliding_window=8),
    "qwen2": replace(_DENSE, family="qwen2", attention_bias=True),
    "qwen3": replace(_DENSE, family="qwen3", query_key_norm="head", tie_embeddings=False),
    "skywork": replace(_DENSE, family="skywork", tie_embeddings=False),
    "mixtral": _MIXTRAL,
    "olmoe": replace(_DENSE, kv_heads=4, query_key_norm="all").with_moe(
        replace(_RAW, top_k=4), "olmoe"
    ),
    "qwen2_moe": replace(_DENSE, attention_bias=True).with_moe(
        replace(_RAW, shared_size=48, shared_gate=True), "qwen2_moe"
    ),
    "qwen3_moe": replace(_DENSE, query_key_norm="head").with_moe(_MOE, "qwen3_moe"),
    "deepseek": replace(_DENSE, kv_heads=4).with_moe(
        replace(_RAW, shared_size=64, dense_layers=(0,)), "deepseek"
    ),
    "skywork_moe": _DENSE.with_moe(replace(_MOE, gate_norm=1.0), "skywork_moe"),
    "raymoe": _DENSE.with_moe(
        replace(_MOE, score="sigmoid", balance_bias=True, groups=4, top_groups=2, scale=2.5),
        "raymoe",
    ),
    "raymoe, hashed": _DENSE.with_moe(replace(_MOE, top_k=1, hashed=True), "raymoe"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A model and how a training pass goes through it."""

    name: str
    config: ModelConfig
    how: Pass
    deferred: bool = False


def cases() -> Iterator[Case]:
    """Yield every family in a plain pass, then every option on one of them."""
    for name, config in FAMILIES.items():
        yield Case(name, config, replace(PLAIN, logits=False, balance=_losses(config)))
    plain = replace(PLAIN, logits=False, balance=_losses(_MIXTRAL))
    options = {
        "capacity by probability": replace(plain, capacity=Capacity(0.75)),
        "capacity by position": replace(plain, capacity=Capacity(0.75, policy="position")),
        "experts choose": replace(
            plain, capacity=Capacity(1.0, chooser="experts"), balance=Balance(z=1e-3)
        ),
        "recomputed": replace(plain, recompute=frozenset(range(_MIXTRAL.layers))),
    }
    for name, how in options.items():
        yield Case(f"mixtral, {name}", _MIXTRAL, how)
    yield Case("mixtral, later gradients", _MIXTRAL, plain, deferred=True)


def _losses(config: ModelConfig) -> Balance:
    """Return every router loss at once; none for a model without a gate."""
    if config.moe is None or config.moe.hashed:
        return Balance()
    return Balance(
        kind="switch",
        coefficients=dict.fromkeys(config.moe_layers, 0.05),
        z=1e-3,
        device=0.05,
        device_groups=2,
    )
