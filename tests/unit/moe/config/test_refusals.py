"""What no config.json may hide: values we do not compute, options a format cannot say."""

from dataclasses import fields, replace
from typing import Any

import pytest

from moe.config.families import read_config, write_config
from moe.config.model import ModelConfig, MoeConfig
from moe.errors import ConfigError
from tests import tiny

TABLES: dict[str, dict[str, Any]] = {
    family: {
        "model_type": family,
        "vocab_size": 97,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 4,
        "rms_norm_eps": 1e-6,
    }
    for family in tiny.OF_FAMILY
}


@pytest.mark.parametrize("family", TABLES)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'; raymoe computes only 'silu'"),
        ({"attention_dropout": 0.1}, "attention_dropout = 0.1; raymoe computes only 0.0"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope type 'yarn' is not computed"),
        (
            {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
            "layer_types with '(sliding|full)_attention' for layer [01]; raymoe computes one kind",
        ),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0; expected a whole number"),
        ({"num_key_value_heads": 4}, "6 attention heads cannot share 4 key-value heads"),
    ],
)
def test_every_family_refuses(family: str, changes: dict[str, Any], message: str) -> None:
    read_config(TABLES[family])
    with pytest.raises(ConfigError, match=message):
        read_config(TABLES[family] | changes)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"sliding_window": 4096}, "sliding_window = 4096; raymoe computes only None"),
        ("olmoe", {"sliding_window": 4096}, "sliding_window = 4096; raymoe computes only None"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv = 8.0; raymoe computes only None"),
        ("olmoe", {"head_dim": 8}, "6 heads of 8; the format wants heads x head size = hidden"),
        ("olmoe", {"norm_topk_prob": 1}, "norm_topk_prob = 1; expected true or false"),
        ("olmoe", {"num_experts": 0}, "num_experts = 0; expected a whole number above 0"),
        ("olmoe", {"num_experts_per_tok": 65}, "top-k is 65 but there are 64 experts"),
        ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise = 0.1"),
        ("mixtral", {"sliding_window": 0}, "sliding_window = 0; expected a whole number above 0"),
        ("mistral", {"sliding_window": -1}, "sliding_window = -1; expected a whole number above"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window = True; raymoe computes only"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window = True; raymoe computes only"),
        ("qwen2_moe", {"use_sliding_window": True}, "use_sliding_window = True"),
        ("qwen3_moe", {"use_sliding_window": True}, "use_sliding_window = True"),
        ("qwen2_moe", {"qkv_bias": "yes"}, "qkv_bias = 'yes'; expected true or false"),
        (
            "qwen2_moe",
            {"shared_expert_intermediate_size": 0},
            "shared_expert_intermediate_size = 0; expected a whole number above 0",
        ),
        ("qwen3_moe", {"mlp_only_layers": [3]}, r"mlp_only_layers = \[3\]; .* from 0 to 2"),
        ("qwen3_moe", {"mlp_only_layers": [-1]}, r"mlp_only_layers = \[-1\]; expected a list"),
        ("qwen3_moe", {"mlp_only_layers": 1}, "mlp_only_layers = 1; expected a list of layer"),
        ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step = 0; expected a whole"),
        ("qwen3_moe", {"decoder_sparse_step": 4}, r"dense layers are \[0, 1, 2\] of 3; give"),
        (
            "qwen3_moe",
            {"num_experts": 8, "num_local_experts": 9},
            "num_experts = 8 and num_local_experts = 9; they are two names of one number",
        ),
    ],
)
def test_a_family_refuses_what_we_do_not_compute(
    family: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(TABLES[family] | changes)


def config_of(family: str, **changes: Any) -> ModelConfig:
    """Return a small architecture; changes of its experts may stand among the others."""
    config = read_config(TABLES[family])
    of_model = {option.name for option in fields(config)}
    inside = {key: changes.pop(key) for key in changes.keys() - of_model}
    if config.moe is not None:
        config = replace(config, moe=replace(config.moe, **inside))
    return replace(config, **changes)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("mixtral", {"gate_norm": 1.0}, "the mixtral format cannot say gate_norm = 1.0, a loader"),
        ("mixtral", {"renormalise": False}, "cannot say renormalise = False"),
        ("mixtral", {"shared_size": 8}, "cannot say shared_size = 8"),
        ("mixtral", {"dense_layers": (0,)}, r"cannot say dense_layers = \(0,\)"),
        ("mixtral", {"attention_bias": True}, "cannot say attention_bias = True"),
        ("mixtral", {"mlp_bias": True}, "cannot say mlp_bias = True"),
        ("mixtral", {"query_key_norm": "all"}, "cannot say query_key_norm = 'all'"),
        ("mixtral", {"moe": None}, "the mixtral format holds models with experts but this model"),
        ("llama", {"moe": MoeConfig(4, 2, 8)}, "the llama format holds no experts but this model"),
        ("llama", {"attention_bias": True}, "attention_bias = True and output_bias = False; write"),
        ("llama", {"output_bias": True}, "the llama format has one key for all attention biases"),
        ("llama", {"sliding_window": 8}, "cannot say sliding_window = 8"),
        ("llama", {"hidden_size": 25}, "hidden size 25 is no multiple of 6 heads"),
        ("mistral", {"attention_bias": True}, "cannot say attention_bias = True"),
        ("qwen2", {"attention_bias": False}, "always has attention_bias = True, this model has F"),
        ("qwen2", {"output_bias": True}, "cannot say output_bias = True"),
        ("qwen3", {"query_key_norm": None}, "always has query_key_norm = 'head', this model has N"),
        ("qwen3", {"attention_bias": True}, "the qwen3 format has one key for all attention"),
        ("olmoe", {"query_key_norm": "head"}, "olmoe format always has query_key_norm = 'all'"),
        ("olmoe", {"head_size": 8}, "6 heads of 8; the format wants heads x head size = hidden"),
        ("olmoe", {"output_bias": True}, "the olmoe format has one key for all attention biases"),
        ("olmoe", {"shared_size": 8}, "cannot say shared_size = 8"),
        ("olmoe", {"score": "sigmoid"}, "cannot say score = 'sigmoid'"),
        ("qwen2_moe", {"shared_gate": False}, "always has shared_gate = True, this model has Fals"),
        ("qwen2_moe", {"scale": 2.5}, "cannot say scale = 2.5"),
        ("qwen2_moe", {"output_bias": True}, "cannot say output_bias = True"),
        ("qwen3_moe", {"shared_size": 8}, "cannot say shared_size = 8"),
        ("qwen3_moe", {"balance_bias": True}, "cannot say balance_bias = True"),
        ("qwen3_moe", {"groups": 2, "top_groups": 2}, "cannot say groups = 2"),
        ("qwen3_moe", {"query_key_norm": None}, "always has query_key_norm = 'head'"),
    ],
)
def test_a_format_refuses_what_it_cannot_say(
    family: str, changes: dict[str, Any], message: str
) -> None:
    write_config(config_of(family), "float32")
    with pytest.raises(ConfigError, match=message):
        write_config(config_of(family, **changes), "float32")
