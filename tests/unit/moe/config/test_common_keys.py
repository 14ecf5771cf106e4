"""The common keys of a config.json: their spellings, their defaults, and what they may not be."""

from copy import deepcopy
from typing import Any

import pytest
import transformers

from moe.config.families import read_config
from moe.config.model import RopeScaling
from moe.errors import ConfigError

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
        (
            {
                "rope_scaling": {"type": "linear", "factor": 2},
                "rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 4},
            },
            10000.0,
            RopeScaling("linear", 2.0),
        ),
    ],
)
def test_spellings_of_rope(keys: dict[str, Any], theta: float, scaling: RopeScaling | None) -> None:
    config = read_config(MINIMAL | keys)
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)
    theirs = transformers.LlamaConfig(**deepcopy(MINIMAL | keys)).to_dict()
    assert read_config(theirs) == config


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
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'; raymoe computes only 'silu'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope type 'yarn' is not computed"),
        ({"rope_scaling": "linear"}, "rope parameters 'linear'; expected an object"),
        ({"rope_scaling": {"type": "linear"}}, "lacks the key 'factor'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_key_value_heads": 4}, "6 attention heads cannot share 4 key-value heads"),
        ({"head_dim": 5}, "head size 5 is odd"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0; expected a whole number"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers = '3'; expected a whole number"),
        ({"hidden_size": 24.0}, "hidden_size = 24.0; expected a whole number"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps = 'small'; expected a finite number"),
        ({"rms_norm_eps": None}, "rms_norm_eps = None; expected a finite number not"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps = nan; expected a finite number"),
        ({"rope_theta": 0}, "rope_theta = 0; expected a finite number above 0"),
        ({"rope_theta": float("inf")}, "rope_theta = inf; expected a finite number"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor = '2'; expected"),
        ({"max_position_embeddings": "8k"}, "max_position_embeddings = '8k'; expected a"),
        ({"max_position_embeddings": 0}, "max_position_embeddings = 0; expected a whole"),
        ({"initializer_range": "0.02"}, "initializer_range = '0.02'; expected a finite"),
        ({"initializer_range": True}, "initializer_range = True; expected a finite"),
        (
            {"initializer_range": -1},
            "initializer_range = -1; expected a finite number not",
        ),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings = 'false'; expected true"),
        ({"bos_token_id": "1"}, "bos_token_id = '1'; expected a token number or null"),
        ({"eos_token_id": [2, 7.5]}, "eos_token_id = 7.5; expected a token number"),
        ({"hidden_size": 4}, "head size 0 is odd or 0"),
        ({"model_type": None}, "model_type None; raymoe reads llama"),
        ({"model_type": "gpt2"}, "model_type 'gpt2'; raymoe reads llama"),
    ],
)
def test_what_we_do_not_compute_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(MINIMAL | changes)


@pytest.mark.parametrize("key", sorted(MINIMAL.keys() - {"model_type"}))
def test_a_missing_key_is_named(key: str) -> None:
    table = {name: value for name, value in MINIMAL.items() if name != key}
    with pytest.raises(ConfigError, match=f"llama model lacks the key '{key}'"):
        read_config(table)
