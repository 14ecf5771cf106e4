"""config.json of each family: read, written, read again, and read by transformers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.checkpoint.writer import write_json
from moe.config.families import read_config, write_config
from moe.config.model import ModelConfig, MoeConfig, RopeScaling
from moe.config.tensors import active_parameters, parameters, tensors
from moe.errors import ConfigError
from tests import tiny

FAST = settings(max_examples=40, deadline=None)
LLAMA3 = RopeScaling("llama3", 8.0, 1.0, 4.0, 32)
LLAMA3_TABLE = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MINIMAL: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "rms_norm_eps": 1e-6,
}
MIXTRAL = MINIMAL | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
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


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    family = draw(st.sampled_from(["llama", "mixtral", "skywork_moe"]))
    kv_heads, size = draw(st.integers(1, 4)), draw(st.integers(1, 64))
    heads = kv_heads * draw(st.integers(1, 4))
    moe = None
    if family != "llama":
        experts = draw(st.integers(1, 16))
        norm = draw(st.sampled_from([None, 0.5, 1.0])) if family == "skywork_moe" else None
        moe = MoeConfig(experts, draw(st.integers(1, experts)), size, norm)
    return ModelConfig(
        family=family,
        vocab_size=draw(st.integers(1, 200)),
        hidden_size=heads * draw(st.integers(1, 9)),
        layers=draw(st.integers(1, 60)),
        heads=heads,
        kv_heads=kv_heads,
        head_size=2 * draw(st.integers(1, 64)),
        ffn_size=size,
        norm_eps=draw(st.sampled_from([1e-5, 1e-6])),
        rope_theta=draw(st.sampled_from([10000.0, 1e6])),
        max_positions=draw(st.integers(64, 9999)),
        tie_embeddings=draw(st.booleans()),
        attention_bias=family == "llama" and draw(st.booleans()),
        mlp_bias=family == "llama" and draw(st.booleans()),
        rope_scaling=draw(st.sampled_from([None, RopeScaling("linear", 2.0), LLAMA3])),
        initializer_range=draw(st.sampled_from([0.02, 0.01])),
        bos_token_id=draw(st.none() | st.integers(0, 9)),
        eos_token_ids=draw(st.sampled_from([(), (0,), (2,), (2, 7)])),
        pad_token_id=draw(st.none() | st.integers(0, 9)),
        moe=moe,
    )


@FAST
@given(config=configs())
def test_written_and_read_again_is_the_same(config: ModelConfig) -> None:
    assert read_config(write_config(config, "float32")) == config


@settings(max_examples=15, deadline=None)
@given(config=configs().filter(lambda config: config.family != "skywork_moe"))
def test_transformers_reads_the_same_numbers(
    config: ModelConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("config")
    write_json(path / "config.json", write_config(config, "bfloat16"))
    theirs = transformers.AutoConfig.from_pretrained(path)
    assert str(theirs.dtype) == "torch.bfloat16"
    assert theirs.head_dim == config.head_size
    assert theirs.rope_parameters["rope_theta"] == config.rope_theta
    assert theirs.tie_word_embeddings == config.tie_embeddings
    assert theirs.num_key_value_heads == config.kv_heads
    assert theirs.rms_norm_eps == config.norm_eps
    assert read_config(theirs.to_dict()) == config


@pytest.mark.parametrize("model", [tiny.llama(), tiny.mixtral()])
def test_our_parameter_count_is_transformers(model: Any) -> None:
    config = read_config(model.config.to_dict())
    assert parameters(config) == sum(p.numel() for p in model.parameters())


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
        ({"moe_use_skywork_gating": True}, 1.0),
        ({"num_experts": 16}, 1.0),
        ({"num_local_experts": 16, "num_experts": None}, 1.0),
    ],
)
def test_spellings_of_skywork_moe(changes: dict[str, Any], gate_norm: float | None) -> None:
    moe = read_config(RELEASED | changes).moe
    assert moe == MoeConfig(experts=16, top_k=2, expert_size=12288, gate_norm=gate_norm)


def test_the_key_of_a_norm_that_is_off_is_not_written() -> None:
    """The released loader tests only that the key is there."""
    config = read_config(RELEASED | {"moe_use_logits_norm": False})
    assert "moe_use_logits_norm" not in write_config(config, "bfloat16")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": [16, 8]}, r"num_experts \[16, 8\]; raymoe reads one number"),
        ({"num_experts": []}, r"num_experts \[\]; raymoe reads one number"),
        ({"num_experts": None}, "a dense skywork model, which raymoe does not read"),
        ({"moe_2layer_gate": True}, "moe_2layer_gate = True; raymoe computes only False"),
        ({"moe_feature_no_mul_topk": False}, "moe_feature_no_mul_topk = False"),
        ({"moe_expert_interval": 2}, "moe_expert_interval = 2"),
        ({"rotary_percent": 0.5}, "rotary_percent = 0.5; raymoe computes only 1.0"),
        ({"moe_gate_norm_std": 0.0}, "moe_gate_norm_std = 0.0; expected a finite number above 0"),
        ({"moe_gate_norm_std": None}, "moe_gate_norm_std = None; expected a finite number"),
        ({"moe_use_logits_norm": "no"}, "moe_use_logits_norm = 'no'; expected true or false"),
        ({"num_experts_per_tok": 17}, "top-k is 17 but there are 16 experts"),
        (
            {"quantization_config": {"quant_method": "fp8"}},
            "quantization_config = .*; raymoe computes only None",
        ),
    ],
)
def test_a_skywork_moe_we_do_not_compute(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(RELEASED | changes)


@pytest.mark.parametrize(
    ("keys", "theta", "scaling"),
    [
        ({}, 10000.0, None),
        ({"rope_theta": 5e5}, 5e5, None),
        ({"rope_scaling": None, "rope_theta": 5e5}, 5e5, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5, None),
        (
            {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}},
            5e5,
            RopeScaling("linear", 2.0),
        ),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3_TABLE}},
            5e5,
            LLAMA3,
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3_TABLE}},
            5e5,
            LLAMA3,
        ),
    ],
)
def test_spellings_of_rope(keys: dict[str, Any], theta: float, scaling: RopeScaling | None) -> None:
    config = read_config(MINIMAL | keys)
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)


@pytest.mark.parametrize("table", [MINIMAL, MIXTRAL])
def test_what_a_config_leaves_out_is_what_transformers_assumes(
    table: dict[str, Any], tmp_path: Path
) -> None:
    write_json(tmp_path / "config.json", table | {"num_key_value_heads": 3})
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    ours = read_config(table | {"num_key_value_heads": 3})
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.tie_embeddings == theirs.tie_word_embeddings
    assert ours.initializer_range == theirs.initializer_range


def test_heads_and_their_size_by_default() -> None:
    config = read_config(MINIMAL | {"num_key_value_heads": None, "head_dim": None})
    assert (config.heads, config.kv_heads, config.head_size) == (6, 6, 4)
    assert read_config(MINIMAL | {"head_dim": 8}).head_size == 8


def test_what_is_null_is_as_if_left_out() -> None:
    keys = ("max_position_embeddings", "initializer_range", "rope_theta", "tie_word_embeddings")
    config = read_config(MINIMAL | dict.fromkeys(keys))
    assert config == read_config(MINIMAL)
    assert (config.max_positions, config.initializer_range) == (2048, 0.02)
    assert read_config(MINIMAL | {"initializer_range": 0}).initializer_range == 0.0


@pytest.mark.parametrize(
    ("found", "ids"), [(None, ()), (0, (0,)), (2, (2,)), ([2, 7], (2, 7)), ([], ())]
)
def test_spellings_of_end_of_text(found: Any, ids: tuple[int, ...]) -> None:
    assert read_config(MINIMAL | {"eos_token_id": found}).eos_token_ids == ids


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        (MIXTRAL, {"sliding_window": 4096}, "sliding_window = 4096; raymoe computes only None"),
        (MIXTRAL, {"router_jitter_noise": 0.1}, "router_jitter_noise = 0.1"),
        (MIXTRAL, {"num_local_experts": None}, "num_local_experts = None; expected a whole"),
        (MINIMAL, {"hidden_act": "gelu"}, "hidden_act = 'gelu'; raymoe computes only 'silu'"),
        (MINIMAL, {"rope_scaling": {"rope_type": "yarn"}}, "rope type 'yarn' is not computed"),
        (MINIMAL, {"rope_scaling": "linear"}, "rope parameters 'linear'; expected an object"),
        (MINIMAL, {"rope_scaling": {"type": "linear"}}, "lacks the key 'factor'"),
        (MINIMAL, {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        (MINIMAL, {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        (MINIMAL, {"quantization_config": {"bits": 4}}, "quantization_config"),
        (MINIMAL, {"num_key_value_heads": 4}, "6 attention heads cannot share 4 key-value heads"),
        (MINIMAL, {"head_dim": 5}, "head size 5 is odd"),
        (MINIMAL, {"num_attention_heads": 0}, "num_attention_heads = 0; expected a whole number"),
        (MINIMAL, {"num_hidden_layers": "3"}, "num_hidden_layers = '3'; expected a whole number"),
        (MINIMAL, {"hidden_size": 24.0}, "hidden_size = 24.0; expected a whole number"),
        (MINIMAL, {"rms_norm_eps": "small"}, "rms_norm_eps = 'small'; expected a finite number"),
        (MINIMAL, {"rms_norm_eps": None}, "rms_norm_eps = None; expected a finite number not"),
        (MINIMAL, {"rms_norm_eps": float("nan")}, "rms_norm_eps = nan; expected a finite number"),
        (MINIMAL, {"rope_theta": 0}, "rope_theta = 0; expected a finite number above 0"),
        (MINIMAL, {"rope_theta": float("inf")}, "rope_theta = inf; expected a finite number"),
        (MINIMAL, {"rope_scaling": {"type": "linear", "factor": "2"}}, "factor = '2'; expected"),
        (MINIMAL, {"max_position_embeddings": "8k"}, "max_position_embeddings = '8k'; expected a"),
        (MINIMAL, {"max_position_embeddings": 0}, "max_position_embeddings = 0; expected a whole"),
        (MINIMAL, {"initializer_range": "0.02"}, "initializer_range = '0.02'; expected a finite"),
        (MINIMAL, {"initializer_range": True}, "initializer_range = True; expected a finite"),
        (
            MINIMAL,
            {"initializer_range": -1},
            "initializer_range = -1; expected a finite number not",
        ),
        (MINIMAL, {"tie_word_embeddings": "false"}, "tie_word_embeddings = 'false'; expected true"),
        (MINIMAL, {"bos_token_id": "1"}, "bos_token_id = '1'; expected a token number or null"),
        (MINIMAL, {"eos_token_id": [2, 7.5]}, "eos_token_id = 7.5; expected a token number"),
        (MINIMAL, {"hidden_size": 4}, "head size 0 is odd or 0"),
        (MINIMAL, {"model_type": None}, "model_type None; raymoe reads llama"),
        (MINIMAL, {"model_type": "gpt2"}, "model_type 'gpt2'; raymoe reads llama"),
    ],
)
def test_what_we_do_not_compute_is_refused(
    table: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(table | changes)


@pytest.mark.parametrize("key", sorted(MINIMAL.keys() - {"model_type"}))
def test_a_missing_key_is_named(key: str) -> None:
    table = {name: value for name, value in MINIMAL.items() if name != key}
    with pytest.raises(ConfigError, match=f"llama model lacks the key '{key}'"):
        read_config(table)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moe": MoeConfig(4, 2, 40, gate_norm=1.0)}, "write skywork_moe instead"),
        ({"moe": MoeConfig(4, 2, 40, renormalise=False)}, "always renormalises the top-k"),
        ({"moe": None}, "the mixtral format holds experts"),
        ({"attention_bias": True}, "no attention or feed-forward biases"),
        ({"mlp_bias": True}, "no attention or feed-forward biases"),
        ({"family": "llama"}, "the llama format cannot hold 8 experts; write mixtral or skywork"),
    ],
)
def test_a_format_refuses_what_it_cannot_say(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_config(replace(read_config(MIXTRAL), **changes), "float32")
