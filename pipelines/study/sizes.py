"""The small decoder of all studies, dense and as mixtures of experts.

A standard feed-forward is 256 wide. All mixtures but the narrow ones have 16 standard
feed-forwards of parameters in each layer, as the 2B models of DeepSeekMoE have.
"""

from dataclasses import replace

from moe.config.model import ModelConfig, MoeConfig
from pipelines.study.text import VOCABULARY

STANDARD = 256

DENSE = ModelConfig(
    family="llama",
    vocab_size=VOCABULARY,
    hidden_size=96,
    layers=4,
    heads=6,
    kv_heads=6,
    head_size=16,
    ffn_size=STANDARD,
    norm_eps=1e-6,
    rope_theta=1e4,
    max_positions=256,
    tie_embeddings=True,
    initializer_range=0.02,
    eos_token_ids=(0,),
)

SKYWORK = MoeConfig(8, 2, STANDARD, gate_norm=1.0)
"""Eight experts, two of them a token, with normalised gate logits."""

GSHARD = MoeConfig(16, 2, STANDARD)
SWITCH = MoeConfig(16, 1, STANDARD, renormalise=False)
HASH = MoeConfig(16, 1, STANDARD, hashed=True)


def wide(times: float) -> ModelConfig:
    """Return the dense decoder with feed-forwards of so many times the standard width."""
    return replace(DENSE, ffn_size=round(STANDARD * times))


def mixture(moe: MoeConfig) -> ModelConfig:
    """Return the decoder with experts in every layer, in raymoe's own format."""
    return DENSE.with_moe(moe, "raymoe")


def fine_grained(split: int, shared: int) -> MoeConfig:
    """Return 16 standard experts of which a token has two, each cut in ``split``; ``shared`` of
    the parts are for all tokens (DeepSeekMoE, sections 3.1 and 3.2).
    """
    width = STANDARD // split
    routed, active = 16 * split - shared, 2 * split - shared
    return MoeConfig(routed, active, width, renormalise=False, shared_size=shared * width)


DEEPSEEK = fine_grained(4, 1)
