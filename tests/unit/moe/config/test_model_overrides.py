"""Sizes changed by key=value: what fits is taken, what does not is named."""

from dataclasses import replace

import pytest

from moe.config.families import read_config, write_config
from moe.config.model import RopeScaling
from moe.config.model_overrides import override
from moe.config.presets import PRESETS
from moe.errors import ConfigError

FINE = PRESETS["deepseek-moe-16b"].config


def test_fields_of_both_halves_are_set() -> None:
    words = ["layers=3", " hidden_size = 64", "dense_layers=[0, 2]", "experts=8", "norm_eps=1"]
    made = override(FINE, [*words, "score=sigmoid", "eos_token_ids=[7]"])
    assert FINE.moe is not None
    assert made == replace(
        FINE,
        layers=3,
        hidden_size=64,
        norm_eps=1.0,
        eos_token_ids=(7,),
        moe=replace(FINE.moe, dense_layers=(0, 2), experts=8, score="sigmoid"),
    )


def test_nothing_changes_without_overrides() -> None:
    for preset in PRESETS.values():
        assert override(preset.config, []) == preset.config
    scaled = replace(FINE, rope_scaling=RopeScaling("linear", 2.0))
    assert override(scaled, ["heads=8", "kv_heads=8"]).rope_scaling == scaled.rope_scaling


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("layer=2", "unknown key layer; did you mean layers\\?"),
        ("moe=1", "unknown key moe; did you mean"),
        ("zzz=1", "unknown key zzz; known: family, vocab_size, "),
        ("layers", "expected key=value, such as layers=2"),
        ("=2", "expected key=value"),
        ("layers=two", "layers: Input should be a valid integer; found 'two'"),
        ("layers=2.5", "layers: Input should be a valid integer; found 2.5"),
        ("tie_embeddings=1", "tie_embeddings: Input should be a valid boolean; found 1"),
        ("layers=0", "layers must be at least 1"),
        ("kv_heads=0", "kv_heads must be at least 1"),
        ("kv_heads=3", "16 attention heads cannot share 3 key-value heads"),
        ("top_k=65", "top-k is 65 but there are 64 experts"),
        ("layers=1", r"dense layers are \[0\] of 1"),
        ("family=foo", "no family 'foo'; choose one of llama, mistral, "),
        ("eos_token_ids=[1, x]", "eos_token_ids: Input should be a valid "),
        ("eos_token_ids=[1, 'x']", "eos_token_ids.1: Input should be a valid integer; found 'x'"),
        ("experts=2.5", "set: experts: Input should be a valid integer; found 2.5"),
    ],
)
def test_what_does_not_fit_is_named(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(FINE, [word])


def test_a_dense_model_has_no_options_of_experts() -> None:
    with pytest.raises(ConfigError, match="--set experts=4: unknown key experts"):
        override(PRESETS["dense"].config, ["experts=4"])


@pytest.mark.parametrize("family", ["skywork_moe", "mixtral", "olmoe"])
@pytest.mark.parametrize(
    ("words", "width"),
    [(["ffn_size=7"], 7), (["expert_size=8"], 8), (["ffn_size=9", "expert_size=9"], 9), ([], 1408)],
)
def test_a_format_with_one_width_has_it_everywhere(
    family: str, words: list[str], width: int
) -> None:
    start = ["dense_layers=[]", "shared_size=0", f"family={family}"]
    start += ["query_key_norm=all"] if family == "olmoe" else ["renormalise=true"]
    made = override(FINE, [*start, *words])
    assert made.moe is not None
    assert (made.ffn_size, made.moe.expert_size) == (width, width)
    assert read_config(write_config(made, "float32")) == made


def test_two_widths_for_a_format_with_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="ffn_size = 7 and expert_size = 8, but the skywork_moe"):
        override(PRESETS["skywork-moe-146b"].config, ["ffn_size=7", "expert_size=8"])


def test_other_formats_keep_two_widths() -> None:
    made = override(FINE, ["ffn_size=7"])
    assert made == replace(FINE, ffn_size=7)


def test_a_family_that_there_is_not_cannot_be_written() -> None:
    with pytest.raises(ConfigError, match="no family 'foo'; choose one of llama, mistral, "):
        write_config(replace(PRESETS["dense"].config, family="foo"), "float32")
