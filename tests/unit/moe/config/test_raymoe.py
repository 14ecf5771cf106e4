"""config.json of our own format: every option, there and back."""

from dataclasses import fields, replace
from typing import Any

import pytest
import transformers
from hypothesis import given, settings

from moe.checkpoint.remote_code.configuration_raymoe import RaymoeConfig
from moe.config.families import read_config, write_config
from moe.config.model import ModelConfig, MoeConfig
from moe.errors import ConfigError
from tests import architectures
from tests.examples import examples

MINIMAL: dict[str, Any] = {
    "model_type": "raymoe",
    "vocab_size": 97,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "rms_norm_eps": 1e-6,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "norm_topk_prob": True,
    "scoring_func": "softmax",
}
OTHER: dict[str, Any] = {
    "attention_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "query_key_norm": "head",
    "sliding_window": 7,
    "gate_norm": 0.5,
    "renormalise": False,
    "score": "sigmoid",
    "softmax_after": True,
    "scale": 2.5,
    "balance_bias": True,
    "groups": 2,
    "hashed": True,
    "segment_tokens": 4,
    "first_segment": "own",
    "dense_layers": (1,),
    "shared_size": 5,
}
"""A value that is not the default, for every option that may stand alone."""


@settings(max_examples=examples(80))
@given(config=architectures.raymoe())
def test_written_and_read_again_is_the_same(config: ModelConfig) -> None:
    assert read_config(write_config(config, "float32")) == config


@settings(max_examples=examples(20))
@given(config=architectures.raymoe())
def test_transformers_keeps_every_key(config: ModelConfig) -> None:
    theirs = RaymoeConfig(**write_config(config, "float32"))
    assert read_config(theirs.to_dict()) == config


@pytest.mark.parametrize("option", OTHER)
def test_each_option_is_held(option: str) -> None:
    config = read_config(MINIMAL)
    assert config.moe is not None
    changes = {option: OTHER[option]}
    if option in ("hashed", "segment_tokens", "first_segment"):
        changes |= {"top_k": 1}
    if option in ("segment_tokens", "first_segment"):
        changes |= {"segment_tokens": 4, "expert_size": config.ffn_size}
    if hasattr(config, option) and option != "shared_size":
        changed = replace(config, **changes)
    else:
        changed = replace(config, moe=replace(config.moe, **changes))
    assert changed != config
    assert read_config(write_config(changed, "float32")) == changed


def test_no_option_is_forgotten() -> None:
    """What is not below is a size, is common to all families or goes with another option."""
    common = set(MINIMAL) | {"family", "layers", "heads", "kv_heads", "head_size", "ffn_size"}
    common |= {"norm_eps", "rope_theta", "rope_scaling", "max_positions", "tie_embeddings"}
    common |= {
        "initializer_range",
        "bos_token_id",
        "eos_token_ids",
        "pad_token_id",
        "moe",
        "tuning",
    }
    common |= {"experts", "top_k", "expert_size", "top_groups", "group_best", "shared_gate"}
    options = {option.name for part in (ModelConfig, MoeConfig) for option in fields(part)}
    assert options - common == set(OTHER)


def test_what_is_left_out_is_off() -> None:
    config = read_config(MINIMAL)
    assert config.moe == MoeConfig(8, 2, 16)
    assert config == read_config(RaymoeConfig(**MINIMAL, num_key_value_heads=6).to_dict() | NONE)
    assert config.query_key_norm is None


NONE: dict[str, Any] = {"max_position_embeddings": None, "bos_token_id": None, "eos_token_id": None}


MERGED: dict[str, Any] = {"segment_tokens": 4, "first_segment": "even"}
ONE: dict[str, Any] = {"num_experts_per_tok": 1}


@pytest.mark.parametrize("key", sorted(MINIMAL.keys() - {"model_type"}))
def test_a_missing_key_is_named(key: str) -> None:
    table = {name: value for name, value in MINIMAL.items() if name != key}
    with pytest.raises(ConfigError, match=f"raymoe model lacks the key '{key}'"):
        read_config(table)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scoring_func": "tanh"}, "scoring_func = 'tanh'; choose 'softmax' or 'sigmoid'"),
        ({"norm_topk_prob": 1}, "norm_topk_prob = 1; choose True or False"),
        ({"norm_topk_prob": None}, "norm_topk_prob = None; choose True or False"),
        ({"query_key_norm": "both"}, "query_key_norm = 'both'; choose None or 'head' or 'all'"),
        ({"dense_layers": 1}, "dense_layers = 1; expected a list of layer numbers"),
        ({"dense_layers": [1.0]}, r"dense_layers = \[1.0\]; expected a list of layer numbers"),
        ({"dense_layers": [0, 1, 2]}, "leave at least one layer with experts"),
        ({"dense_layers": [3]}, "give rising layer numbers"),
        ({"gate_norm": 0}, "gate_norm = 0; expected a finite number above 0"),
        ({"routed_scaling_factor": -1}, "routed_scaling_factor = -1; expected a finite number"),
        ({"n_group": 3}, "8 experts in 3 groups"),
        ({"shared_expert_intermediate_size": -1}, "= -1; expected a whole number not below 0"),
        ({"shared_gate": True}, "shared_gate is set but there is no shared expert"),
        ({"hashed": True}, "a hash sends each token to 1 expert; top-k is 2"),
        (MERGED, "a segment passes the 1 feed-forward .*; top-k is 2, give 1"),
        (MERGED | ONE, "merged experts are 16 wide and a feed-forward 40; .* give expert_size ="),
        (MERGED | ONE | {"segment_tokens": 0}, "segment_tokens = 0; expected a whole number"),
        (MERGED | ONE | {"gate_norm": 1.0}, "merged for segments, which takes no gate_norm = 1.0"),
        (MERGED | ONE | {"hashed": True}, "merged for segments, which takes no hashed = True"),
        (MERGED | {"first_segment": None}, "first_segment = None; choose 'even' or 'own'"),
        ({"first_segment": "own"}, "first_segment = 'own' has no effect on tokens that are routed"),
        ({"hashed": "yes"}, "hashed = 'yes'; expected true or false"),
        ({"sliding_window": 0}, "sliding_window = 0; expected a whole number above 0"),
        ({"n_routed_experts": None}, "n_routed_experts = None; expected a whole number above 0"),
    ],
)
def test_what_we_do_not_compute_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(MINIMAL | changes)


def test_a_dense_model_has_other_formats() -> None:
    dense = replace(read_config(MINIMAL), moe=None)
    with pytest.raises(ConfigError, match="the raymoe format holds models with experts but this"):
        write_config(dense, "float32")


def test_transformers_has_no_such_model_itself() -> None:
    """Or our names would be taken."""
    known = transformers.CONFIG_MAPPING
    assert not {"raymoe", "deepseek", "skywork", "skywork_moe"} & set(known)
