"""Hugging Face ``config.json`` to ModelConfig and back, one function pair per family.

Keys that would change the numbers and that we do not compute are refused, never ignored.
"""

from collections.abc import Callable, Mapping
from typing import Any

from moe.config.model import ModelConfig, MoeConfig, RopeScaling
from moe.config.values import Table, count, flag, number, require, token, tokens
from moe.errors import ConfigError

MOE_FAMILIES = ("mixtral", "skywork_moe")


def read_config(table: Table) -> ModelConfig:
    """Return the architecture a ``config.json`` describes."""
    model_type = table.get("model_type")
    reader = _READERS.get(str(model_type))
    if reader is None:
        raise ConfigError(
            f"config.json says model_type {model_type!r}; raymoe reads {', '.join(_READERS)}"
        )
    try:
        return reader(table)
    except KeyError as error:
        raise ConfigError(f"config.json of a {model_type} model lacks the key {error}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"config.json of a {model_type} model has a value of the wrong kind: {error}"
        ) from error


def write_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Return the ``config.json`` of an architecture; ``dtype`` names the type of its tensors."""
    table = _common(config, dtype)
    if config.family == "llama" and config.moe is None:
        return table | {"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias}
    if config.family not in _MOE_WRITERS:
        raise ConfigError(
            f"the {config.family} format cannot hold {config.experts} experts; "
            f"write {' or '.join(_MOE_WRITERS)}"
        )
    if config.moe is None or config.attention_bias or config.mlp_bias:
        raise ConfigError(
            f"the {config.family} format holds experts and no attention or feed-forward biases; "
            "this model cannot be written in it"
        )
    if not config.moe.renormalise:
        raise ConfigError(f"the {config.family} format always renormalises the top-k weights")
    return table | _MOE_WRITERS[config.family](config.moe)


def _llama(table: Table) -> ModelConfig:
    return _decoder(
        table,
        family="llama",
        attention_bias=flag(table, "attention_bias"),
        mlp_bias=flag(table, "mlp_bias"),
    )


def _mixtral(table: Table) -> ModelConfig:
    require(table, "router_jitter_noise", 0.0)
    moe = MoeConfig(
        experts=count(table, "num_local_experts"),
        top_k=count(table, "num_experts_per_tok"),
        expert_size=count(table, "intermediate_size"),
    )
    return _decoder(table, family="mixtral", default_theta=1e6, moe=moe)


def _skywork_moe(table: Table) -> ModelConfig:
    """The released config has ``num_experts`` as a list and no top-k, which is 2.

    The model type was ``skywork`` at first, which is also that of the dense parent.
    """
    require(table, "rotary_percent", 1.0)
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
    return _decoder(table, family="skywork_moe", moe=moe)


_READERS: Mapping[str, Callable[[Table], ModelConfig]] = {
    "llama": _llama,
    "mixtral": _mixtral,
    "skywork_moe": _skywork_moe,
    "skywork": _skywork_moe,
}


def _mixtral_table(moe: MoeConfig) -> dict[str, Any]:
    if moe.gate_norm is not None:
        raise ConfigError(
            "the mixtral format cannot say that gate logits are normalised, a loader would "
            "compute other numbers; write skywork_moe instead"
        )
    return {
        "architectures": ["MixtralForCausalLM"],
        "num_local_experts": moe.experts,
        "num_experts_per_tok": moe.top_k,
        "router_jitter_noise": 0.0,
        "sliding_window": None,
    }


def _skywork_table(moe: MoeConfig) -> dict[str, Any]:
    """Leave the normalisation keys out when off: the released loader tests only their presence.

    The files that ``auto_map`` names are those of ``moe.checkpoint.remote``.
    """
    table: dict[str, Any] = {
        "architectures": ["SkyworkForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_skywork_moe.SkyworkMoeConfig",
            "AutoModelForCausalLM": "modeling_skywork_moe.SkyworkForCausalLM",
        },
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


_MOE_WRITERS: Mapping[str, Callable[[MoeConfig], dict[str, Any]]] = {
    "mixtral": _mixtral_table,
    "skywork_moe": _skywork_table,
}


def _decoder(
    table: Table, family: str, default_theta: float = 10000.0, **extra: Any
) -> ModelConfig:
    require(table, "hidden_act", "silu")
    require(table, "sliding_window", None)
    require(table, "quantization_config", None)
    heads = count(table, "num_attention_heads")
    hidden_size = count(table, "hidden_size")
    theta, scaling = _rope(table, default_theta)
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


def _common(config: ModelConfig, dtype: str) -> dict[str, Any]:
    eos = list(config.eos_token_ids)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.moe.expert_size if config.moe else config.ffn_size,
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
    } | _rope_table(config.rope_scaling)


def _rope(table: Table, default_theta: float) -> tuple[float, RopeScaling | None]:
    """Read both spellings: ``rope_parameters``, and ``rope_theta`` beside ``rope_scaling``."""
    parameters = table.get("rope_parameters") or table.get("rope_scaling") or {}
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"config.json has rope parameters {parameters!r}; expected an object")
    for place in (table, parameters):
        require(place, "partial_rotary_factor", 1.0)
    theta = number(parameters, "rope_theta", number(table, "rope_theta", default_theta))
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", number(parameters, "factor"))
    if kind != "llama3":
        raise ConfigError(f"rope type {kind!r} is not computed; known: default, linear, llama3")
    return theta, RopeScaling(
        kind="llama3",
        factor=number(parameters, "factor"),
        low_freq_factor=number(parameters, "low_freq_factor"),
        high_freq_factor=number(parameters, "high_freq_factor"),
        original_max_positions=count(parameters, "original_max_position_embeddings"),
    )


def _rope_table(scaling: RopeScaling | None) -> dict[str, Any]:
    """Leave the key out where there is no scaling: transformers calls its old name deprecated."""
    if scaling is None:
        return {}
    table: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        table |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    return {"rope_scaling": table}
