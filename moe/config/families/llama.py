"""Llama: the plain dense decoder."""

from typing import Any

from moe.config.families.decoder import read_decoder, refuse_one_bias
from moe.config.families.defaults import filled
from moe.config.model import ModelConfig
from moe.config.values import Table, flag, require
from moe.errors import ConfigError

HOLDS = frozenset({"attention_bias", "output_bias", "mlp_bias"})
DEFAULTS: Table = {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2}


def read_llama(table: Table) -> ModelConfig:
    """Return the architecture; one key gives the biases of all four attention projections."""
    require(table, "sliding_window", None)
    bias = flag(table, "attention_bias")
    return read_decoder(
        filled(table, DEFAULTS),
        family="llama",
        attention_bias=bias,
        output_bias=bias,
        mlp_bias=flag(table, "mlp_bias"),
    )


def llama_table(config: ModelConfig) -> dict[str, Any]:
    """Return the keys that only this family has."""
    refuse_one_bias(config)
    if config.hidden_size % config.heads:
        raise ConfigError(
            f"hidden size {config.hidden_size} is no multiple of {config.heads} heads, which "
            "transformers refuses in a llama model; choose family mistral"
        )
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
    }
