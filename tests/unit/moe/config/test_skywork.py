"""config.json of Skywork as released, dense and MoE, other spellings, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from moe.config.families import read_config, write_config
from moe.config.model import ModelConfig, MoeConfig
from moe.config.tensors import active_parameters, parameters, tensors
from moe.errors import ConfigError
from tests import architectures
from tests.examples import examples

RELEASED: dict[str, Any] = {
    "architectures": ["SkyworkForCausalLM"],
    "model_type": "skywork_moe",
    "vocab_size": 65532,
    "hidden_size": 4608,
    "intermediate_size": 12288,
    "num_hidden_layers": 52,
    "num_attention_heads": 36,
    "num_key_value_heads": 36,
    "hidden_act": "silu",
    "initializer_range": 0.01,
    "max_position_embeddings": 8192,
    "moe_expert_interval": 1,
    "moe_use_logits_norm": True,
    "moe_gate_norm_std": 1.0,
    "moe_use_skywork_gating": False,
    "moe_2layer_gate": False,
    "moe_feature_no_mul_topk": True,
    "num_experts": [16],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10000,
    "rotary_percent": 1.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
DENSE = {
    key: value
    for key, value in RELEASED.items()
    if not key.startswith(("moe_", "num_experts", "rotary", "sliding"))
} | {"model_type": "skywork", "vocab_size": 65519, "max_position_embeddings": 4096}
"""The keys of Skywork-13B."""


@settings(max_examples=examples(40))
@given(config=architectures.skywork() | architectures.skywork_moe())
def test_written_and_read_again_is_the_same(config: ModelConfig) -> None:
    assert read_config(write_config(config, "float32")) == config


@pytest.mark.parametrize("changes", [{}, {"num_experts": None}, {"attention_bias": False}])
def test_without_experts_it_is_the_dense_model(changes: dict[str, Any]) -> None:
    config = read_config(DENSE | changes)
    assert (config.family, config.moe) == ("skywork", None)
    assert (config.heads, config.head_size, config.ffn_size) == (36, 128, 12288)
    assert parameters(config) / 1e9 == pytest.approx(13.85, abs=0.005)
    assert read_config(write_config(config, "bfloat16")) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "attention_bias = True; raymoe computes only False"),
        ({"mlp_bias": True}, "mlp_bias = True; raymoe computes only False"),
        ({"rotary_percent": 0.5}, "rotary_percent = 0.5; raymoe computes only 1.0"),
        ({"sliding_window": 9}, "sliding_window = 9; raymoe computes only None"),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0}}, "rope type 'ntk' is not computed"),
    ],
)
def test_a_dense_skywork_we_do_not_compute(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(DENSE | changes)


@pytest.mark.parametrize(
    "changes", [{"attention_bias": True}, {"mlp_bias": True}, {"query_key_norm": "head"}]
)
def test_the_dense_format_refuses_what_it_cannot_say(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"the skywork format cannot say {min(changes)}"):
        write_config(replace(read_config(DENSE), **changes), "float32")


@pytest.mark.parametrize("model_type", ["skywork", "skywork_moe"])
def test_the_released_skywork_moe(model_type: str) -> None:
    config = read_config(RELEASED | {"model_type": model_type})
    assert config.family == "skywork_moe"
    assert config.moe == MoeConfig(experts=16, top_k=2, expert_size=12288, gate_norm=1.0)
    assert (config.heads, config.kv_heads, config.head_size) == (36, 36, 128)
    assert (config.eos_token_ids, config.pad_token_id) == ((2,), 0)
    assert parameters(config) / 1e9 == pytest.approx(146.36, abs=0.005)
    assert active_parameters(config) / 1e9 == pytest.approx(22.69, abs=0.005)
    dense = replace(config, moe=None, family="llama")
    assert parameters(dense) / 1e9 == pytest.approx(13.85, abs=0.005)
    gates = [t for t in tensors(config) if t.name.endswith("router.weight")]
    assert {gate.shape for gate in gates} == {(16, 4608)}
    assert read_config(write_config(config, "bfloat16")) == config


@pytest.mark.parametrize(
    ("changes", "gate_norm"),
    [
        ({"moe_use_logits_norm": False}, None),
        ({"moe_gate_norm_std": 2}, 2.0),
        ({"num_experts": 16}, 1.0),
        ({"num_local_experts": None}, 1.0),
        ({"num_local_experts": 16, "num_experts": None}, 1.0),
    ],
)
def test_spellings_of_skywork_moe(changes: dict[str, Any], gate_norm: float | None) -> None:
    moe = read_config(RELEASED | changes).moe
    assert moe == MoeConfig(experts=16, top_k=2, expert_size=12288, gate_norm=gate_norm)


def test_the_softmax_over_the_chosen_alone_is_the_other_gating() -> None:
    moe = read_config(RELEASED | {"moe_use_skywork_gating": True}).moe
    assert moe is not None
    assert moe.softmax_after


def test_the_key_of_a_norm_that_is_off_is_not_written() -> None:
    """The released loader tests only that the key is there."""
    config = read_config(RELEASED | {"moe_use_logits_norm": False})
    assert "moe_use_logits_norm" not in write_config(config, "bfloat16")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": [16, 8]}, r"num_experts \[16, 8\]; raymoe reads one number"),
        ({"num_local_experts": 8}, "num_local_experts = 8 and num_experts = .16.; they are two"),
        ({"num_experts": []}, r"num_experts \[\]; raymoe reads one number"),
        ({"num_experts": None}, "no num_experts; a dense Skywork has model_type 'skywork'"),
        ({"moe_2layer_gate": True}, "moe_2layer_gate = True; raymoe computes only False"),
        ({"moe_feature_no_mul_topk": False}, "moe_feature_no_mul_topk = False"),
        ({"moe_expert_interval": 2}, "moe_expert_interval = 2"),
        ({"rotary_percent": 0.5}, "rotary_percent = 0.5; raymoe computes only 1.0"),
        ({"moe_gate_norm_std": 0.0}, "moe_gate_norm_std = 0.0; expected a finite number above 0"),
        ({"moe_gate_norm_std": None}, "moe_gate_norm_std = None; expected a finite number"),
        ({"moe_use_logits_norm": "no"}, "moe_use_logits_norm = 'no'; expected true or false"),
        ({"num_experts_per_tok": 17}, "top-k is 17 but there are 16 experts"),
        (
            {"quantization_config": {"quant_method": "gptq"}},
            r"quantization_config \(gptq\) that raymoe does not read: .*model\.dequantize",
        ),
    ],
)
def test_a_skywork_moe_we_do_not_compute(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(RELEASED | changes)
