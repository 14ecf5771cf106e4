"""config.json of DeepSeek v1: the published 16B, the layers with experts, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from moe.config.families import read_config, write_config
from moe.config.model import ModelConfig, MoeConfig
from moe.config.tensors import active_parameters, parameters
from moe.errors import ConfigError
from tests import architectures
from tests.examples import examples

RELEASED: dict[str, Any] = {
    "architectures": ["DeepseekForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "aux_loss_alpha": 0.001,
    "bos_token_id": 100000,
    "eos_token_id": 100001,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 10944,
    "max_position_embeddings": 4096,
    "model_type": "deepseek",
    "moe_intermediate_size": 1408,
    "moe_layer_freq": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 28,
    "num_key_value_heads": 16,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10000,
    "scoring_func": "softmax",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 102400,
}


def moe_of(changes: dict[str, Any]) -> MoeConfig:
    moe = read_config(RELEASED | changes).moe
    assert moe is not None
    return moe


def test_the_released_16b() -> None:
    config = read_config(RELEASED)
    assert config.family == "deepseek"
    assert config.moe == MoeConfig(
        experts=64,
        top_k=6,
        expert_size=1408,
        renormalise=False,
        dense_layers=(0,),
        shared_size=2816,
    )
    assert parameters(config) / 1e9 == pytest.approx(16.376, abs=0.0005)
    assert active_parameters(config) / 1e9 == pytest.approx(2.829, abs=0.0005)
    assert read_config(write_config(config, "bfloat16")) == config


def test_what_is_written_is_what_was_released() -> None:
    """But for hints of training, and keys that say nothing."""
    written = write_config(read_config(RELEASED), "bfloat16")
    silent = {"aux_loss_alpha", "seq_aux", "attention_dropout", "pretraining_tp", "rope_scaling"}
    assert {key: written[key] for key in RELEASED.keys() - silent} == {
        key: value for key, value in RELEASED.items() if key not in silent
    }


@settings(max_examples=examples(40))
@given(config=architectures.deepseek())
def test_written_and_read_again_is_the_same(config: ModelConfig) -> None:
    assert read_config(write_config(config, "float32")) == config


@pytest.mark.parametrize(
    ("first", "every", "dense"),
    [
        (0, 1, []),
        (3, 1, [0, 1, 2]),
        (0, 2, [1, 3, 5]),
        (1, 2, [0, 1, 3, 5]),
        (1, 4, [0, 1, 2, 3, 5]),
        (5, 5, [0, 1, 2, 3, 4]),
    ],
)
def test_layers_with_experts(first: int, every: int, dense: list[int]) -> None:
    keys = {"first_k_dense_replace": first, "moe_layer_freq": every, "num_hidden_layers": 6}
    assert list(moe_of(keys).dense_layers) == dense
    again = read_config(write_config(read_config(RELEASED | keys), "float32"))
    assert list(again.moe.dense_layers if again.moe else []) == dense


@pytest.mark.parametrize("none", [None, 0])
def test_no_shared_experts(none: int | None) -> None:
    assert moe_of({"n_shared_experts": none}).shared_size == 0
    config = read_config(RELEASED | {"n_shared_experts": none})
    assert write_config(config, "float32")["n_shared_experts"] is None


def test_one_weight_is_not_renormalised() -> None:
    """As in the published code: a top-1 keeps its probability."""
    assert moe_of({"norm_topk_prob": True}).renormalise
    assert not moe_of({"norm_topk_prob": True, "num_experts_per_tok": 1}).renormalise


@pytest.mark.parametrize("changes", [{"aux_loss_alpha": 0.01}, {"seq_aux": False}])
def test_how_it_was_balanced_changes_no_number(changes: dict[str, Any]) -> None:
    assert read_config(RELEASED | changes) == read_config(RELEASED)


def test_biases_of_attention_are_all_or_none() -> None:
    config = read_config(RELEASED | {"attention_bias": True})
    assert (config.attention_bias, config.output_bias, config.mlp_bias) == (True, True, False)


def test_without_routed_experts_it_is_a_llama() -> None:
    dense = {key: value for key, value in RELEASED.items() if key != "n_routed_experts"}
    config = read_config(dense)
    assert (config.family, config.moe) == ("llama", None)
    assert config.eos_token_ids == (100001,)
    with pytest.raises(ConfigError, match="mlp_bias = True; raymoe computes only False"):
        read_config(dense | {"mlp_bias": True})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scoring_func": "sigmoid"}, "scoring_func = 'sigmoid'; raymoe computes only 'softmax'"),
        ({"moe_layer_freq": 0}, "moe_layer_freq = 0; expected a whole number above 0"),
        ({"first_k_dense_replace": -1}, "first_k_dense_replace = -1; expected a whole number not"),
        ({"first_k_dense_replace": 1.5}, "first_k_dense_replace = 1.5; expected a whole number"),
        ({"first_k_dense_replace": 28}, "leave at least one layer with experts"),
        ({"n_shared_experts": -1}, "n_shared_experts = -1; expected a whole number not below 0"),
        ({"n_shared_experts": "2"}, "n_shared_experts = '2'; expected a whole number"),
        ({"num_experts_per_tok": None}, "num_experts_per_tok = None; expected a whole number"),
        ({"moe_intermediate_size": None}, "moe_intermediate_size = None; expected a whole"),
        ({"sliding_window": 9}, "sliding_window = 9; raymoe computes only None"),
    ],
)
def test_what_we_do_not_compute_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(RELEASED | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shared_size": 2000}, "routed experts' width 1408, this model's is 2000 wide"),
        ({"dense_layers": (1,)}, r"every n-th layer from a first one on, this model in layers \[0"),
        ({"dense_layers": (27,)}, "every n-th layer from a first one on"),
        ({"top_k": 1, "renormalise": True}, "renormalises only a top-k above 1"),
        ({"score": "sigmoid"}, "cannot say score = 'sigmoid'"),
        ({"gate_norm": 1.0}, "cannot say gate_norm = 1.0"),
        ({"shared_gate": True}, "cannot say shared_gate = True"),
        ({"scale": 2.0}, "cannot say scale = 2.0"),
    ],
)
def test_a_format_refuses_what_it_cannot_say(changes: dict[str, Any], message: str) -> None:
    config = read_config(RELEASED)
    assert config.moe is not None
    with pytest.raises(ConfigError, match=message):
        write_config(replace(config, moe=replace(config.moe, **changes)), "float32")


def test_one_key_cannot_give_only_some_biases() -> None:
    config = replace(read_config(RELEASED), attention_bias=True)
    with pytest.raises(ConfigError, match="one key for all attention biases"):
        write_config(config, "float32")
