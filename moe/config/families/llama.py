"""Llama: the plain dense decoder."""

from typing import Any

from moe.config.families.decoder import read_decoder
from moe.config.model import ModelConfig
from moe.config.values import Table, flag, require

HOLDS = frozenset({"attention_bias", "output_bias", "mlp_bias"})


def read_llama(table: Table) -> ModelConfig:
    """Return the architecture; one key gives the biases of all four attention projections."""
    require(table, "sliding_window", None)
    bias = flag(table, "attention_bias")
    return read_decoder(
        table,
        family="llama",
        attention_bias=bias,
        output_bias=bias,
        mlp_bias=flag(table, "mlp_bias"),
    )


def llama_table(config: ModelConfig) -> dict[str, Any]:
    """Return the keys that only this family has."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
    }
