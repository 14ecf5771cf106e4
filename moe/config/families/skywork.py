"""Skywork: the dense Skywork-13B and Skywork-MoE, which shared one model type at first.

The dense model is Llama under another name. It is read and written as ``skywork``, so that tools
that look for this name still find it; for tools that know only Llama, write family llama: the
tensors are the same.
"""

from typing import Any

from moe.config.families.decoder import read_decoder
from moe.config.model import ModelConfig, MoeConfig
from moe.config.values import Table, count, flag, number, require
from moe.errors import ConfigError

HOLDS: frozenset[str] = frozenset()
MOE_HOLDS = frozenset({"gate_norm", "softmax_after"})


def read_skywork(table: Table) -> ModelConfig:
    """Return the architecture; ``num_experts`` marks the mixture of experts.

    The model type of Skywork-MoE was ``skywork`` when it was released.
    """
    if _experts(table) is not None:
        return read_skywork_moe(table)
    _refuse_other_attention(table)
    require(table, "attention_bias", False)
    require(table, "mlp_bias", False)
    return read_decoder(table, family="skywork")


def skywork_table(config: ModelConfig) -> dict[str, Any]:
    """Return the keys that only this family has."""
    return {
        "architectures": ["SkyworkForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_skywork.SkyworkConfig",
            "AutoModelForCausalLM": "modeling_skywork.SkyworkForCausalLM",
        },
    }


def read_skywork_moe(table: Table) -> ModelConfig:
    """Return the architecture.

    The released config has ``num_experts`` as a list and no top-k, which is 2. Its
    ``moe_use_skywork_gating`` takes the softmax over the chosen experts only, which gives the same
    weights.
    """
    _refuse_other_attention(table)
    require(table, "moe_expert_interval", 1)
    require(table, "moe_2layer_gate", False)
    require(table, "moe_feature_no_mul_topk", True)
    experts = _experts(table)
    if experts is None:
        raise ConfigError(
            "config.json has no num_experts; a dense Skywork has model_type 'skywork', not "
            f"{table.get('model_type')!r}"
        )
    gate_norm = None
    if flag(table, "moe_use_logits_norm"):
        gate_norm = number({"moe_gate_norm_std": 1.0, **table}, "moe_gate_norm_std")
    moe = MoeConfig(
        experts=experts,
        top_k=count(table, "num_experts_per_tok", 2),
        expert_size=count(table, "intermediate_size"),
        gate_norm=gate_norm,
        softmax_after=flag(table, "moe_use_skywork_gating"),
    )
    return read_decoder(table, family="skywork_moe", moe=moe)


def skywork_moe_table(config: ModelConfig) -> dict[str, Any]:
    """Return the keys; the normalisation keys only if on: the released loader tests their presence.

    ``moe.checkpoint.remote`` has the files that ``auto_map`` names.
    """
    moe = config.moe
    assert moe is not None
    table: dict[str, Any] = {
        "architectures": ["SkyworkForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_skywork_moe.SkyworkMoeConfig",
            "AutoModelForCausalLM": "modeling_skywork_moe.SkyworkForCausalLM",
        },
        "intermediate_size": moe.expert_size,
        "num_experts": [moe.experts],
        "num_local_experts": moe.experts,
        "num_experts_per_tok": moe.top_k,
        "moe_expert_interval": 1,
        "moe_2layer_gate": False,
        "moe_feature_no_mul_topk": True,
        "moe_use_skywork_gating": moe.softmax_after,
    }
    if moe.gate_norm is not None:
        table |= {"moe_use_logits_norm": True, "moe_gate_norm_std": moe.gate_norm}
    return table


def _experts(table: Table) -> int | None:
    """Return the number of experts under either of its names, or None; a list has one per layer."""
    found: set[int] = set()
    for key in ("num_local_experts", "num_experts"):
        listed = table.get(key)
        if listed is None:
            continue
        numbers = listed if isinstance(listed, list) else [listed]
        if len(set(numbers)) != 1:
            raise ConfigError(
                f"config.json has {key} {listed!r}; raymoe reads one number for all layers"
            )
        found.add(count({key: numbers[0]}, key))
    if len(found) > 1:
        raise ConfigError(
            f"config.json has num_local_experts = {table['num_local_experts']!r} and num_experts "
            f"= {table['num_experts']!r}; they are two names of one number, leave one out"
        )
    return next(iter(found), None)


def _refuse_other_attention(table: Table) -> None:
    require(table, "rotary_percent", 1.0)
    require(table, "sliding_window", None)
