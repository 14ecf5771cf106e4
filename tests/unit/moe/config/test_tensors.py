"""The tensor table: counts known from elsewhere, and slices of it."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.model import ModelConfig, MoeConfig, QueryKeyNorm
from moe.config.share import shared_span, whole
from moe.config.tensors import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    TensorSlice,
    active_parameters,
    answers_for,
    held_by,
    parameters,
    tensors,
)
from moe.planning.stages.split import spans, split
from tests.examples import examples
from tests.plans import FINE, SMOLLM2, configs, with_experts

FAST = settings(max_examples=examples(60))


def test_smollm2_has_the_parameters_it_is_published_with() -> None:
    assert parameters(SMOLLM2) == 134_515_008
    assert active_parameters(SMOLLM2) == parameters(SMOLLM2)


def test_eight_experts_multiply_the_feed_forward_only() -> None:
    upcycled = with_experts(SMOLLM2, 8)
    expert, router = 3 * 576 * 1536, 8 * 576
    assert parameters(upcycled) == 134_515_008 + 30 * (7 * expert + router) == 692_036_928
    assert active_parameters(upcycled) == 134_515_008 + 30 * (expert + router)


def test_an_untied_head_is_counted() -> None:
    untied = replace(SMOLLM2, tie_embeddings=False)
    assert parameters(untied) == parameters(SMOLLM2) + 49152 * 576


@FAST
@given(configs())
def test_names_are_unique_and_tensors_whole(config: ModelConfig) -> None:
    listed = list(tensors(config))
    assert len({tensor.name for tensor in listed}) == len(listed)
    assert all(tensor.dim is None and tensor.held_shape == tensor.shape for tensor in listed)
    assert parameters(config) >= active_parameters(config) > 0


@FAST
@given(configs())
def test_the_whole_share_holds_the_whole_table(config: ModelConfig) -> None:
    share = whole(config)
    assert list(held_by(config, share)) == list(tensors(config))
    assert all(answers_for(config, share, tensor) for tensor in tensors(config))


@pytest.mark.parametrize("tied", [True, False])
def test_the_last_stage_holds_the_matrix_of_its_head(tied: bool) -> None:
    config = replace(SMOLLM2, tie_embeddings=tied)
    last = replace(whole(config), layers=(29, 30), embedding=False)
    held = {tensor.name for tensor in held_by(config, last) if ".layers." not in tensor.name}
    assert held == {FINAL_NORM, EMBEDDING if tied else HEAD}
    first = replace(whole(config), layers=(0, 1), head=False)
    held = {tensor.name for tensor in held_by(config, first) if ".layers." not in tensor.name}
    assert held == {EMBEDDING}


def test_a_tied_head_belongs_to_the_holder_of_the_embedding() -> None:
    last = replace(whole(SMOLLM2), layers=(29, 30), embedding=False)
    embedding = next(part for part in held_by(SMOLLM2, last) if part.name == EMBEDDING)
    assert not answers_for(SMOLLM2, last, embedding)
    assert answers_for(SMOLLM2, whole(SMOLLM2), embedding)


@pytest.mark.parametrize(
    ("name", "dim", "start", "stop", "shape"),
    [
        ("self_attn.q_proj.weight", 0, 192, 576, (384, 576)),
        ("self_attn.q_proj.bias", 0, 192, 576, (384,)),
        ("self_attn.k_proj.weight", 0, 64, 192, (128, 576)),
        ("self_attn.v_proj.weight", 0, 64, 192, (128, 576)),
        ("self_attn.o_proj.weight", 1, 192, 576, (576, 384)),
        ("self_attn.o_proj.bias", None, 0, 0, (576,)),
        ("mlp.gate_proj.weight", 0, 500, 1536, (1036, 576)),
        ("mlp.up_proj.bias", 0, 500, 1536, (1036,)),
        ("mlp.down_proj.weight", 1, 500, 1536, (576, 1036)),
        ("mlp.down_proj.bias", None, 0, 0, (576,)),
        ("input_layernorm.weight", None, 0, 0, (576,)),
    ],
)
def test_a_gang_member_holds_rows_or_columns(
    name: str, dim: int | None, start: int, stop: int, shape: tuple[int, ...]
) -> None:
    config = replace(SMOLLM2, attention_bias=True, output_bias=True, mlp_bias=True)
    share = replace(whole(config), kv_heads=(1, 3), ffn=(500, 1536), leader=False)
    held = {part.name: part for part in held_by(config, share)}
    part: TensorSlice = held[f"model.layers.7.{name}"]
    assert (part.dim, part.start, part.stop, part.held_shape) == (dim, start, stop, shape)
    assert answers_for(config, share, part) == (dim is not None)


def test_experts_are_held_whole_and_the_router_by_everyone() -> None:
    config = with_experts(SMOLLM2, 4)
    share = replace(whole(config), layers=(0, 1), experts=(1, 3), leader=False)
    held = {part.name: part for part in held_by(config, share)}
    experts = {name.split(".")[5] for name in held if ".experts." in name}
    assert experts == {"1", "3"}
    router = held["model.layers.0.mlp.router.weight"]
    assert not answers_for(config, share, router)
    assert answers_for(config, share, held["model.layers.0.mlp.experts.1.up_proj.weight"])


def of_layer(config: ModelConfig, layer: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of one layer's tensors but those of attention and of experts above 0."""
    prefix = f"model.layers.{layer}."
    listed = {each.name.removeprefix(prefix): each.shape for each in tensors(config)}
    return {
        name: shape
        for name, shape in listed.items()
        if name.startswith("mlp.") and (".experts." not in name or ".experts.0." in name)
    }


def test_dense_layers_and_shared_experts_are_listed() -> None:
    dense = {
        "mlp.gate_proj.weight": (1536, 576),
        "mlp.up_proj.weight": (1536, 576),
        "mlp.down_proj.weight": (576, 1536),
    }
    assert of_layer(FINE, 0) == of_layer(FINE, 7) == dense
    assert of_layer(FINE, 1) == {
        "mlp.router.weight": (16, 576),
        "mlp.experts.0.gate_proj.weight": (384, 576),
        "mlp.experts.0.up_proj.weight": (384, 576),
        "mlp.experts.0.down_proj.weight": (576, 384),
        "mlp.shared.gate_proj.weight": (768, 576),
        "mlp.shared.up_proj.weight": (768, 576),
        "mlp.shared.down_proj.weight": (576, 768),
        "mlp.shared_gate.weight": (1, 576),
    }
    mixed = 3 * 576 * (16 * 384 + 768) + 17 * 576
    assert parameters(FINE) == parameters(SMOLLM2) + 28 * (mixed - 3 * 576 * 1536)
    assert parameters(FINE) - active_parameters(FINE) == 28 * 13 * 3 * 576 * 384


def test_a_hash_has_no_router_and_a_balance_bias_has_no_gradient() -> None:
    hashed = replace(SMOLLM2, moe=MoeConfig(4, 1, 8, hashed=True))
    assert not any("router" in name for name in of_layer(hashed, 0))
    biased = replace(SMOLLM2, moe=MoeConfig(4, 1, 8, balance_bias=True))
    assert of_layer(biased, 0)["mlp.router.balance_bias"] == (4,)
    untrained = [each.name for each in tensors(biased) if not each.role.trained]
    assert untrained == [f"model.layers.{layer}.mlp.router.balance_bias" for layer in range(30)]


def test_norms_of_queries_and_keys_and_the_output_bias_are_listed() -> None:
    def attention(**changes: Any) -> dict[str, tuple[int, ...]]:
        config = replace(SMOLLM2, layers=1, **changes)
        prefix = "model.layers.0.self_attn."
        return {each.name.removeprefix(prefix): each.shape for each in tensors(config)}

    plain = attention().keys()
    for norm, query, key in (("head", 64, 64), ("all", 576, 192)):
        listed = attention(query_key_norm=norm, output_bias=True)
        new = {"q_norm.weight": (query,), "k_norm.weight": (key,), "o_proj.bias": (576,)}
        assert {name: listed[name] for name in listed.keys() - plain} == new


@pytest.mark.parametrize(
    ("name", "dim", "start", "stop", "shape"),
    [
        ("shared.gate_proj.weight", 0, 250, 768, (518, 576)),
        ("shared.up_proj.weight", 0, 250, 768, (518, 576)),
        ("shared.down_proj.weight", 1, 250, 768, (576, 518)),
        ("shared_gate.weight", None, 0, 0, (1, 576)),
        ("router.weight", None, 0, 0, (16, 576)),
        ("router.balance_bias", None, 0, 0, (16,)),
    ],
)
def test_the_shared_expert_is_cut_with_the_feed_forward(
    name: str, dim: int | None, start: int, stop: int, shape: tuple[int, ...]
) -> None:
    assert FINE.moe is not None
    config = replace(FINE, moe=replace(FINE.moe, balance_bias=True))
    share = replace(whole(config), ffn=(500, 1536), experts=(1, 15), leader=False)
    held = {part.name: part for part in held_by(config, share)}
    part = held[f"model.layers.6.mlp.{name}"]
    assert (part.dim, part.start, part.stop, part.held_shape) == (dim, start, stop, shape)
    assert answers_for(config, share, part) == (dim is not None)
    assert answers_for(config, replace(share, leader=True), part)
    assert held["model.layers.7.mlp.up_proj.weight"].held_shape == (1036, 576)


@pytest.mark.parametrize(("norm", "cut"), [("head", False), ("all", True)])
def test_norms_of_all_heads_are_cut_with_them(norm: QueryKeyNorm, cut: bool) -> None:
    config = replace(SMOLLM2, query_key_norm=norm)
    share = replace(whole(config), kv_heads=(1, 3), leader=False)
    held = {part.name.removeprefix("model.layers.0."): part for part in held_by(config, share)}
    query, key = held["self_attn.q_norm.weight"], held["self_attn.k_norm.weight"]
    assert (query.held_shape, key.held_shape) == (((384,), (128,)) if cut else ((64,), (64,)))
    assert answers_for(config, share, query) == answers_for(config, share, key) == cut


@FAST
@given(configs(), st.integers(1, 5))
def test_spans_partition_the_shared_expert(config: ModelConfig, parts: int) -> None:
    columns = spans(split(config.ffn_size, parts))
    cut = [shared_span(config, span) for span in columns]
    assert cut[0][0] == 0
    assert cut[-1][1] == config.shared_size
    assert all(before[1] == after[0] for before, after in pairwise(cut))
