"""Architectures of the papers by name: DeepSeekMoE with its baselines, Skywork-MoE, Lory.

Sizes are those of DeepSeekMoE table 7 and sections 4.1, 5.1 and 7.1 and of Skywork-MoE table 2 with
its release. Sizes that the papers do not give are chosen to match their parameter counts:

    2B family     experts 854 wide, a standard feed-forward 4 times that; published is only "0.25 of
                  a standard FFN" and 2.0B parameters. 8192 words, for the printed "8K".
    145B family   a standard feed-forward 10944 wide, two of them the first layer of 145B and 137B,
                  one that of the half-activated 142B. 142B then counts 13.6B active parameters,
                  as its printed 374.6T FLOPs ask for; the paper prints 12.2B beside them.
    GShard        weights of the two chosen sum to one, as in GShard; DeepSeekMoE does not say.
    Skywork 13B   the dense parent with the vocabulary of the release, 65532.
    Lory          feed-forwards 2816 wide, LLaMA's rule for 1024; 32000 words.

Sixteen feed-forwards that are always on equal one of sixteen times the width: ``dense-x16``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from moe.config.model import ModelConfig, MoeConfig
from moe.config.overrides import hint
from moe.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Preset:
    """One architecture and its one-line description."""

    config: ModelConfig
    about: str


_EXPERT_2B = 854
_EXPERT_16B = 1408
_STANDARD_145B = 10944

_SMALL = ModelConfig(
    family="llama",
    vocab_size=8192,
    hidden_size=1280,
    layers=9,
    heads=10,
    kv_heads=10,
    head_size=128,
    ffn_size=4 * _EXPERT_2B,
    norm_eps=1e-6,
    rope_theta=1e4,
    max_positions=2048,
    tie_embeddings=False,
    initializer_range=0.006,
)
_MIDDLE = replace(
    _SMALL,
    vocab_size=102400,
    hidden_size=2048,
    layers=28,
    heads=16,
    kv_heads=16,
    ffn_size=10944,
    max_positions=4096,
    bos_token_id=100000,
    eos_token_ids=(100001,),
)
_LARGE = replace(
    _MIDDLE, hidden_size=4096, layers=62, heads=32, kv_heads=32, ffn_size=2 * _STANDARD_145B
)
_SKYWORK = replace(
    _SMALL,
    vocab_size=65532,
    hidden_size=4608,
    layers=52,
    heads=36,
    kv_heads=36,
    ffn_size=12288,
    max_positions=8192,
    initializer_range=0.01,
    bos_token_id=1,
    eos_token_ids=(2,),
    pad_token_id=0,
)


def preset(name: str) -> Preset:
    """Return a preset by name; ConfigError names the nearest known name."""
    if name not in PRESETS:
        raise ConfigError(f"no preset named {name}; {hint(name, PRESETS)}")
    return PRESETS[name]


def _wide(times: int) -> ModelConfig:
    """Return the small dense model with feed-forwards ``times`` as wide."""
    return replace(_SMALL, ffn_size=times * _SMALL.ffn_size)


def _fine(
    dense: ModelConfig, experts: int, top_k: int, shared: int, first_dense: bool = True
) -> ModelConfig:
    """Return a DeepSeekMoE: fine-grained experts, some shared, raw softmax weights."""
    size = _EXPERT_2B if dense is _SMALL else _EXPERT_16B
    moe = MoeConfig(
        experts,
        top_k,
        size,
        renormalise=False,
        dense_layers=(0,) if first_dense else (),
        shared_size=shared * size,
    )
    return dense.with_moe(moe, "deepseek")


def _gshard(times: float) -> ModelConfig:
    """Return a model with top-2 of 16 experts, ``times`` as wide as a standard feed-forward."""
    return _SMALL.with_moe(MoeConfig(16, 2, round(times * _SMALL.ffn_size)), "deepseek")


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "deepseek-moe-2b": Preset(
            _fine(_SMALL, 63, 7, 1, first_dense=False),
            "of the validation: 1 + 7 of 63",
        ),
        "deepseek-moe-16b": Preset(_fine(_MIDDLE, 64, 6, 2), "released: 2 shared + 6 of 64"),
        "deepseek-moe-145b": Preset(_fine(_LARGE, 128, 12, 4), "4 shared + 12 of 128"),
        "deepseek-moe-142b": Preset(
            _fine(replace(_LARGE, ffn_size=_STANDARD_145B), 128, 6, 2),
            "half-activated: 2 + 6 of 128",
        ),
        "skywork-moe-146b": Preset(
            _SKYWORK.with_moe(MoeConfig(16, 2, 12288, gate_norm=1.0), "skywork_moe"),
            "2 of 16, normalised gate logits",
        ),
        "skywork-13b": Preset(_SKYWORK, "dense parent of Skywork-MoE"),
        "dense": Preset(_wide(1), "baseline of the 2B validation"),
        "dense-x4": Preset(_wide(4), "feed-forwards 4 x as wide"),
        "dense-x16": Preset(_wide(16), "16 feed-forwards, always on"),
        "hash": Preset(
            _SMALL.with_moe(MoeConfig(16, 1, _SMALL.ffn_size, hashed=True), "raymoe"),
            "1 of 16 by the token's number",
        ),
        "switch": Preset(
            _SMALL.with_moe(MoeConfig(16, 1, _SMALL.ffn_size, renormalise=False), "raymoe"),
            "1 of 16, raw softmax weight",
        ),
        "lory": Preset(
            replace(
                _SMALL,
                vocab_size=32000,
                hidden_size=1024,
                layers=24,
                heads=16,
                kv_heads=16,
                head_size=64,
                ffn_size=2816,
                max_positions=4096,
            ).with_moe(MoeConfig(8, 1, 2816, segment_tokens=256, first_segment="own"), "raymoe"),
            "8 merged for 256 tokens",
        ),
        "gshard": Preset(_gshard(1), "2 of 16, weights sum to one"),
        "gshard-x1.2": Preset(_gshard(1.2), "GShard, experts 1.2 x as wide"),
        "gshard-x1.5": Preset(_gshard(1.5), "GShard, experts 1.5 x as wide"),
        "gshard-137b": Preset(
            _LARGE.with_moe(MoeConfig(16, 2, _STANDARD_145B, dense_layers=(0,)), "deepseek"),
            "GShard at the size of 145B",
        ),
    }
)
