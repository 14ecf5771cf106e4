"""The keys that the ``config.json`` of every family has in common."""

from dataclasses import fields
from typing import Any

from moe.config.families.rope import read_rope, rope_table
from moe.config.model import ModelConfig, MoeConfig
from moe.config.quantised import read_quantised
from moe.config.values import Table, count, flag, number, require, token, tokens
from moe.errors import ConfigError

_SIZES = frozenset({"experts", "top_k", "expert_size"})
"""Options that every format with experts holds."""


def read_decoder(
    table: Table, family: str, default_theta: float = 10000.0, **extra: Any
) -> ModelConfig:
    """Return the architecture from the common keys; ``extra`` are the options of the family."""
    require(table, "hidden_act", "silu")
    require(table, "attention_dropout", 0.0)
    read_quantised(table)
    _refuse_unlike_layers(table, extra.get("sliding_window"))
    heads = count(table, "num_attention_heads")
    hidden_size = count(table, "hidden_size")
    theta, scaling = read_rope(table, default_theta)
    return ModelConfig(
        family=family,
        vocab_size=count(table, "vocab_size"),
        hidden_size=hidden_size,
        layers=count(table, "num_hidden_layers"),
        heads=heads,
        kv_heads=count(table, "num_key_value_heads", heads),
        head_size=count(table, "head_dim", hidden_size // heads),
        ffn_size=count(table, "intermediate_size"),
        norm_eps=number(table, "rms_norm_eps", zero=True),
        rope_theta=theta,
        rope_scaling=scaling,
        max_positions=count(table, "max_position_embeddings", 2048),
        tie_embeddings=flag(table, "tie_word_embeddings"),
        initializer_range=number(table, "initializer_range", 0.02, zero=True),
        bos_token_id=token(table, "bos_token_id"),
        eos_token_ids=tokens(table, "eos_token_id"),
        pad_token_id=token(table, "pad_token_id"),
        **extra,
    )


def read_window(table: Table) -> int | None:
    """Return how many positions a token attends to, including itself; None: all previous
    positions.
    """
    return None if table.get("sliding_window") is None else count(table, "sliding_window")


def decoder_table(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Return the common keys of an architecture."""
    eos = list(config.eos_token_ids)
    return {
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.initializer_range,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "pad_token_id": config.pad_token_id,
        "torch_dtype": dtype,
        "use_cache": True,
    } | rope_table(config.rope_scaling)


def refuse_unspoken(config: ModelConfig, holds: frozenset[str]) -> None:
    """Raise ConfigError for an option that differs from its default and has no key in the format.

    ``holds`` names the fields of ModelConfig and MoeConfig for which the format has a key; for any
    other changed field a loader of the format would compute other numbers.
    """
    spoken = holds | _SIZES
    for part, options in ((config, _MODEL_OPTIONS), (config.moe, _MOE_OPTIONS)):
        for name, default in options.items():
            found = getattr(part, name) if part is not None else default
            if found != default and name not in spoken:
                raise ConfigError(
                    f"the {config.family} format cannot say {name} = {found!r}, a loader would "
                    "compute other numbers; write another family (raymoe holds every option)"
                )


def refuse_other(config: ModelConfig, **always: Any) -> None:
    """Raise ConfigError if an option differs from the fixed value of the format."""
    for name, value in always.items():
        found = getattr(config if hasattr(config, name) else config.moe, name)
        if found != value:
            raise ConfigError(
                f"the {config.family} format always has {name} = {value!r}, this model has "
                f"{found!r}; write another family (raymoe holds every option)"
            )


def refuse_one_bias(config: ModelConfig) -> None:
    """Raise ConfigError if one key cannot describe the biases of all four attention projections."""
    if config.attention_bias != config.output_bias:
        raise ConfigError(
            f"the {config.family} format has one key for all attention biases, this model has "
            f"attention_bias = {config.attention_bias} and output_bias = {config.output_bias}; "
            "write another family (raymoe holds every option)"
        )


def _refuse_unlike_layers(table: Table, sliding_window: int | None) -> None:
    """Raise ConfigError if the attention of some layers contradicts the other keys."""
    expected = "full_attention" if sliding_window is None else "sliding_attention"
    for layer, kind in enumerate(table.get("layer_types") or ()):
        if kind != expected:
            raise ConfigError(
                f"config.json has layer_types with {kind!r} for layer {layer}; raymoe computes "
                f"one kind of attention in every layer, by its other keys {expected!r}"
            )


_MODEL_OPTIONS = {
    "attention_bias": False,
    "output_bias": False,
    "mlp_bias": False,
    "query_key_norm": None,
    "sliding_window": None,
}
_MOE_OPTIONS = {f.name: f.default for f in fields(MoeConfig) if f.name not in _SIZES}
