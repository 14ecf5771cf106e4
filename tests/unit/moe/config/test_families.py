"""config.json of each family: written, read again, and read by transformers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.checkpoint.writer import write_json
from moe.config.families import (
    FAMILIES,
    llama,
    mistral,
    mixtral,
    olmoe,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    read_config,
    write_config,
)
from moe.config.model import ModelConfig, MoeConfig, RopeScaling
from moe.config.tensors import parameters
from tests import tiny
from tests.examples import examples

FAST = settings(max_examples=examples(60))
LLAMA3 = RopeScaling("llama3", 8.0, 1.0, 4.0, 32)
MODULES = {
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "mixtral": mixtral,
    "olmoe": olmoe,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
}
"""The families that transformers knows."""


@st.composite
def experts(draw: st.DrawFn, family: str, layers: int) -> MoeConfig:
    """Draw experts of which a family can say everything."""
    number, holds = draw(st.integers(1, 16)), FAMILIES[family].holds
    dense = draw(st.sets(st.integers(0, layers - 1), max_size=layers - 1))
    return MoeConfig(
        experts=number,
        top_k=draw(st.integers(1, number)),
        expert_size=draw(st.integers(1, 64)),
        gate_norm=draw(st.sampled_from([None, 0.5, 1.0])) if "gate_norm" in holds else None,
        renormalise="renormalise" not in holds or draw(st.booleans()),
        dense_layers=tuple(sorted(dense)) if "dense_layers" in holds else (),
        shared_size=draw(st.integers(1, 64)) if "shared_size" in holds else 0,
        shared_gate="shared_gate" in holds,
    )


@st.composite
def configs(draw: st.DrawFn, families: tuple[str, ...] = tuple(MODULES)) -> ModelConfig:
    """Draw an architecture that its family can hold."""
    family = draw(st.sampled_from(families))
    holds = FAMILIES[family].holds
    kv_heads, layers = draw(st.integers(1, 4)), draw(st.integers(1, 20))
    heads, half = kv_heads * draw(st.integers(1, 4)), draw(st.integers(1, 9))
    moe = draw(experts(family, layers)) if FAMILIES[family].experts else None
    bias = family == "qwen2" or ("attention_bias" in holds and draw(st.booleans()))
    windows = st.sampled_from([None, 1, 4096])
    return ModelConfig(
        family=family,
        vocab_size=draw(st.integers(1, 200)),
        hidden_size=heads * half * 2,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_size=2 * (half if family == "olmoe" else draw(st.integers(1, 64))),
        ffn_size=moe.expert_size if moe and "dense_layers" not in holds else 48,
        norm_eps=draw(st.sampled_from([1e-5, 1e-6])),
        rope_theta=draw(st.sampled_from([10000.0, 1e6])),
        max_positions=draw(st.integers(64, 9999)),
        tie_embeddings=draw(st.booleans()),
        attention_bias=bias,
        output_bias=bias and "output_bias" in holds,
        mlp_bias="mlp_bias" in holds and draw(st.booleans()),
        query_key_norm={"olmoe": "all", "qwen3": "head", "qwen3_moe": "head"}.get(family),
        sliding_window=draw(windows) if "sliding_window" in holds else None,
        rope_scaling=draw(st.sampled_from([None, RopeScaling("linear", 2.0), LLAMA3])),
        initializer_range=draw(st.sampled_from([0.02, 0.01])),
        bos_token_id=draw(st.none() | st.integers(0, 9)),
        eos_token_ids=draw(st.sampled_from([(), (0,), (2,), (2, 7)])),
        pad_token_id=draw(st.none() | st.integers(0, 9)),
        moe=moe,
    )


@FAST
@given(config=configs((*MODULES, "skywork_moe")))
def test_written_and_read_again_is_the_same(config: ModelConfig) -> None:
    assert read_config(write_config(config, "float32")) == config


@settings(max_examples=examples(40))
@given(config=configs())
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
    assert (getattr(theirs, "sliding_window", None) or None) == config.sliding_window
    if config.moe is not None:
        assert theirs.num_experts == config.moe.experts
        assert theirs.num_experts_per_tok == config.moe.top_k
    assert read_config(theirs.to_dict()) == config


@pytest.mark.parametrize("family", MODULES)
def test_our_parameter_count_is_transformers(family: str) -> None:
    model = tiny.model(family)
    assert parameters(read_config(model.config.to_dict())) == sum(
        parameter.numel() for parameter in model.parameters()
    )


@pytest.mark.parametrize("family", MODULES)
def test_defaults_are_those_of_transformers(family: str) -> None:
    theirs = transformers.AutoConfig.for_model(family).to_dict()
    ours = MODULES[family].DEFAULTS
    assert {key: theirs.get(key) for key in ours} == ours


@pytest.mark.parametrize("family", MODULES)
def test_what_a_config_leaves_out_is_what_transformers_assumes(family: str, tmp_path: Path) -> None:
    """Both read the least a config.json must say, and mean the same model."""
    table: dict[str, Any] = {
        "model_type": family,
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "rms_norm_eps": 1e-6,
    }
    write_json(tmp_path / "config.json", table)
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    ours = read_config(table)
    assert ours == read_config(theirs.to_dict())
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.kv_heads == theirs.num_key_value_heads
    assert ours.initializer_range == theirs.initializer_range
    assert ours.max_positions == theirs.max_position_embeddings


def test_experts_have_two_names() -> None:
    table = tiny.model("qwen3_moe").config.to_dict()
    experts = table.pop("num_local_experts")
    assert read_config(table | {"num_experts": experts}) == read_config(
        table | {"num_local_experts": experts}
    )


@pytest.mark.parametrize(
    ("keys", "dense"),
    [
        ({}, ()),
        ({"mlp_only_layers": None}, ()),
        ({"mlp_only_layers": [0, 5]}, (0, 5)),
        ({"decoder_sparse_step": 2}, (0, 2, 4)),
        ({"decoder_sparse_step": 3, "mlp_only_layers": [5]}, (0, 1, 3, 4, 5)),
    ],
)
def test_spellings_of_dense_layers(keys: dict[str, Any], dense: tuple[int, ...]) -> None:
    for family in ("qwen2_moe", "qwen3_moe"):
        table = tiny.model(family, num_hidden_layers=6).config.to_dict()
        config = read_config(table | keys)
        assert config.moe is not None
        assert config.moe.dense_layers == dense
        theirs = tiny.model(family, num_hidden_layers=6, **keys).model.layers
        found = [n for n, layer in enumerate(theirs) if not hasattr(layer.mlp, "experts")]
        assert tuple(found) == dense
        assert replace(config, moe=replace(config.moe, dense_layers=())) == read_config(table)
