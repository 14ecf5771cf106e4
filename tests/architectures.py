"""Tiny architectures of each family that raymoe brings its own code for, drawn by hypothesis."""

from typing import Any

from hypothesis import strategies as st

from moe.config.model import ModelConfig, MoeConfig, RopeScaling

ROPES = st.sampled_from(
    [None, RopeScaling("linear", 2.0), RopeScaling("llama3", 8.0, 1.0, 4.0, 32)]
)
SIZES = st.integers(1, 9)
GATE_NORMS = st.sampled_from([None, 0.5, 1.0, 2.0])
"""Not of two experts: normalised, their logits have no gradient, and what is compared is noise."""


@st.composite
def skywork(draw: st.DrawFn) -> ModelConfig:
    """Draw a dense Skywork."""
    return draw(decoders("skywork"))


@st.composite
def skywork_moe(draw: st.DrawFn) -> ModelConfig:
    """Draw a Skywork-MoE; its feed-forward is one of its experts."""
    size, experts = draw(SIZES), draw(st.integers(1, 6))
    moe = MoeConfig(
        experts=experts,
        top_k=draw(st.integers(1, experts)),
        expert_size=size,
        gate_norm=draw(GATE_NORMS) if experts != 2 else None,
        softmax_after=draw(st.booleans()),
    )
    return draw(decoders("skywork_moe", ffn_size=size, moe=moe))


@st.composite
def deepseek(draw: st.DrawFn) -> ModelConfig:
    """Draw a DeepSeek v1."""
    experts, size, layers = draw(st.integers(1, 6)), draw(SIZES), draw(st.integers(1, 4))
    first, every = draw(st.integers(0, layers - 1)), draw(st.integers(1, 2))
    dense = tuple(n for n in range(layers) if n < first or n % every)
    top_k, bias = draw(st.integers(1, experts)), draw(st.booleans())
    moe = MoeConfig(
        experts=experts,
        top_k=top_k,
        expert_size=size,
        renormalise=top_k > 1 and draw(st.booleans()),
        dense_layers=dense if len(dense) < layers else (),
        shared_size=size * draw(st.integers(0, 3)),
    )
    options = {"layers": layers, "attention_bias": bias, "output_bias": bias}
    return draw(decoders("deepseek", moe=moe, **options))


@st.composite
def raymoe(draw: st.DrawFn) -> ModelConfig:
    """Draw any options at all."""
    layers = draw(st.integers(1, 3))
    dense = draw(st.sets(st.integers(0, layers - 1), max_size=layers - 1))
    shared_size = draw(st.integers(0, 9))
    options = {
        "dense_layers": tuple(sorted(dense)),
        "shared_size": shared_size,
        "shared_gate": shared_size > 0 and draw(st.booleans()),
    }
    kind, sizes = draw(st.integers(0, 6)), {}
    if kind == 0:
        moe = draw(_merged(options["dense_layers"]))
        sizes = {"ffn_size": moe.expert_size}
    else:
        moe = draw((_hash_routing if kind == 1 else _gate_routing)(options))
    return draw(
        decoders(
            "raymoe",
            layers=layers,
            moe=moe,
            **sizes,
            attention_bias=draw(st.booleans()),
            output_bias=draw(st.booleans()),
            mlp_bias=draw(st.booleans()),
            query_key_norm=draw(st.sampled_from([None, "head", "all"])),
            sliding_window=draw(st.none() | st.integers(1, 9)),
        )
    )


@st.composite
def decoders(draw: st.DrawFn, family: str, **options: Any) -> ModelConfig:
    """Draw the sizes that every family has."""
    kv_heads = draw(st.integers(1, 2))
    sizes: dict[str, Any] = {
        "family": family,
        "vocab_size": draw(st.integers(20, 40)),
        "hidden_size": draw(st.integers(4, 13)),
        "layers": draw(st.integers(1, 3)),
        "heads": kv_heads * draw(st.integers(1, 3)),
        "kv_heads": kv_heads,
        "head_size": draw(st.sampled_from([2, 4, 6])),
        "ffn_size": draw(st.integers(1, 12)),
        "norm_eps": draw(st.sampled_from([1e-5, 1e-6])),
        "rope_theta": draw(st.sampled_from([10000.0, 500000.0])),
        "max_positions": 256,
        "tie_embeddings": draw(st.booleans()),
        "rope_scaling": draw(ROPES),
        "bos_token_id": 1,
        "pad_token_id": draw(st.none() | st.integers(0, 9)),
    }
    return ModelConfig(**(sizes | options))


@st.composite
def _hash_routing(draw: st.DrawFn, options: dict[str, Any]) -> MoeConfig:
    return MoeConfig(draw(st.integers(1, 6)), 1, draw(SIZES), hashed=True, **options)


@st.composite
def _merged(draw: st.DrawFn, dense_layers: tuple[int, ...]) -> MoeConfig:
    return MoeConfig(
        draw(st.integers(1, 6)),
        1,
        draw(SIZES),
        segment_tokens=draw(st.integers(1, 20)),
        first_segment=draw(st.sampled_from(["even", "own"])),
        dense_layers=dense_layers,
    )


@st.composite
def _gate_routing(draw: st.DrawFn, options: dict[str, Any]) -> MoeConfig:
    groups, members = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    top_groups = draw(st.integers(1, groups))
    score = draw(st.sampled_from(["softmax", "sigmoid"]))
    softmax = score == "softmax"
    return MoeConfig(
        experts=groups * members,
        top_k=draw(st.integers(1, top_groups * members)),
        expert_size=draw(SIZES),
        renormalise=draw(st.booleans()),
        gate_norm=draw(GATE_NORMS) if groups * members != 2 else None,
        score=score,
        softmax_after=softmax and draw(st.booleans()),
        scale=draw(st.sampled_from([1.0, 2.5])),
        balance_bias=draw(st.booleans()),
        groups=groups,
        top_groups=top_groups,
        group_best=draw(st.integers(1, 3)) if groups > 1 else 2,
        **options,
    )


FAMILIES = {
    "skywork": skywork(),
    "skywork_moe": skywork_moe(),
    "deepseek": deepseek(),
    "raymoe": raymoe(),
}
