"""Skywork: the mixture of experts, and the model type it once shared with its dense parent."""

from typing import Any

from moe.config.families.decoder import read_decoder
from moe.config.model import ModelConfig, MoeConfig
from moe.config.values import Table, count, flag, number, require
from moe.errors import ConfigError

MOE_HOLDS = frozenset({"gate_norm"})


def read_skywork_moe(table: Table) -> ModelConfig:
    """Return the architecture.

    The released config has ``num_experts`` as a list and no top-k, which is 2. The model type was
    ``skywork`` at first, which is also that of the dense parent.
    """
    require(table, "rotary_percent", 1.0)
    require(table, "sliding_window", None)
    require(table, "moe_expert_interval", 1)
    require(table, "moe_2layer_gate", False)
    require(table, "moe_feature_no_mul_topk", True)
    experts = table.get("num_local_experts", table.get("num_experts"))
    if experts is None:
        raise ConfigError(
            "config.json has no num_experts: a dense skywork model, which raymoe does not read"
        )
    if isinstance(experts, list | tuple) and len(set(experts)) == 1:
        experts = experts[0]
    if not isinstance(experts, int) or isinstance(experts, bool):
        raise ConfigError(
            f"config.json has num_experts {experts!r}; raymoe reads one number for all layers"
        )
    gate_norm = None
    if flag(table, "moe_use_logits_norm"):
        gate_norm = number({"moe_gate_norm_std": 1.0, **table}, "moe_gate_norm_std")
    moe = MoeConfig(
        experts=experts,
        top_k=count(table, "num_experts_per_tok", 2),
        expert_size=count(table, "intermediate_size"),
        gate_norm=gate_norm,
    )
    return read_decoder(table, family="skywork_moe", moe=moe)


def skywork_moe_table(config: ModelConfig) -> dict[str, Any]:
    """Leave the normalisation keys out when off: the released loader tests only their presence.

    The files that ``auto_map`` names are those of ``moe.checkpoint.remote``.
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
        "moe_use_skywork_gating": False,
    }
    if moe.gate_norm is not None:
        table |= {"moe_use_logits_norm": True, "moe_gate_norm_std": moe.gate_norm}
    return table
