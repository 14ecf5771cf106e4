"""DeepSeek v1: fine-grained experts and shared experts; the first layers are dense.

``aux_loss_alpha`` and ``seq_aux`` describe how a model was balanced in training. They do not change
its numbers, so they are neither read nor written: the run file has the balance settings.
"""

from typing import Any

from moe.config.families.decoder import read_decoder, refuse_one_bias
from moe.config.families.defaults import filled
from moe.config.families.llama import read_llama
from moe.config.model import ModelConfig, MoeConfig
from moe.config.values import Table, count, flag, require
from moe.errors import ConfigError

HOLDS = frozenset({"attention_bias", "output_bias", "renormalise", "dense_layers", "shared_size"})
DEFAULTS: Table = {
    "max_position_embeddings": 2048,
    "bos_token_id": 100000,
    "eos_token_id": 100001,
}


def read_deepseek(table: Table) -> ModelConfig:
    """Return the architecture; without routed experts it is Llama under another name."""
    require(table, "sliding_window", None)
    table = filled(table, DEFAULTS)
    if table.get("n_routed_experts") is None:
        require(table, "mlp_bias", False)
        return read_llama(table)
    require(table, "scoring_func", "softmax")
    bias = flag(table, "attention_bias")
    return read_decoder(
        table, family="deepseek", attention_bias=bias, output_bias=bias, moe=_read_experts(table)
    )


def deepseek_table(config: ModelConfig) -> dict[str, Any]:
    """Return the keys that only this family has."""
    moe = config.moe
    assert moe is not None
    refuse_one_bias(config)
    if moe.renormalise and moe.top_k == 1:
        raise ConfigError(
            "the deepseek format renormalises only a top-k above 1, this model its top-1; "
            "write raymoe"
        )
    first, every = _first_and_every(config)
    return {
        "architectures": ["DeepseekForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_deepseek.DeepseekConfig",
            "AutoModelForCausalLM": "modeling_deepseek.DeepseekForCausalLM",
        },
        "attention_bias": config.attention_bias,
        "n_routed_experts": moe.experts,
        "n_shared_experts": _shared_experts(moe),
        "num_experts_per_tok": moe.top_k,
        "moe_intermediate_size": moe.expert_size,
        "first_k_dense_replace": first,
        "moe_layer_freq": every,
        "norm_topk_prob": moe.renormalise,
        "scoring_func": "softmax",
    }


def _read_experts(table: Table) -> MoeConfig:
    top_k, expert_size = count(table, "num_experts_per_tok"), count(table, "moe_intermediate_size")
    first = count(table, "first_k_dense_replace", 0, zero=True)
    every = count(table, "moe_layer_freq", 1)
    layers = range(count(table, "num_hidden_layers"))
    return MoeConfig(
        experts=count(table, "n_routed_experts"),
        top_k=top_k,
        expert_size=expert_size,
        renormalise=flag(table, "norm_topk_prob") and top_k > 1,
        dense_layers=tuple(layer for layer in layers if layer < first or layer % every),
        shared_size=count(table, "n_shared_experts", 0, zero=True) * expert_size,
    )


def _shared_experts(moe: MoeConfig) -> int | None:
    if moe.shared_size % moe.expert_size:
        raise ConfigError(
            f"the deepseek format counts shared experts of the routed experts' width "
            f"{moe.expert_size}, this model's is {moe.shared_size} wide; write raymoe"
        )
    return moe.shared_size // moe.expert_size or None


def _first_and_every(config: ModelConfig) -> tuple[int, int]:
    """Return the first layer with experts, and the distance between layers with experts."""
    first = config.moe_layers[0]
    for every in range(1, config.layers + 1):
        if config.moe_layers == tuple(n for n in range(first, config.layers) if n % every == 0):
            return first, every
    raise ConfigError(
        f"the deepseek format puts experts in every n-th layer from a first one on, this model "
        f"in layers {list(config.moe_layers)} of {config.layers}; write raymoe"
    )
