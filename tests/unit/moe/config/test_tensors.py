"""The tensor table: counts known from elsewhere, and slices of it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from moe.config.model import ModelConfig
from moe.config.share import whole
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
from tests.plans import SMOLLM2, configs, with_experts

FAST = settings(max_examples=60, deadline=None)


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
    config = replace(SMOLLM2, attention_bias=True, mlp_bias=True)
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
