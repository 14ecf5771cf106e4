"""Roles of tensors, beside what the published names of checkpoints say of the same tensors."""

import re
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.model import ModelConfig, MoeConfig
from moe.config.presets import PRESETS, preset
from moe.config.role import NORMS, ModelPart, Role
from moe.config.tensors import TensorSlice, tensors
from tests import architectures
from tests.examples import examples
from tests.plans import FINE, SMOLLM2, configs

FAST = settings(max_examples=examples(60))

LAYER = r"model\.layers\.(?P<layer>\d+)\."
BLOCK = r"mlp\.(experts\.(?P<expert>\d+)\.|(?P<shared>shared)\.|)"
PARTS: dict[ModelPart, str] = {
    "embedding": r"model\.embed_tokens\.weight",
    "attention_norm": LAYER + r"input_layernorm\.weight",
    "query": LAYER + r"self_attn\.q_proj\.(weight|(?P<bias>bias))",
    "key": LAYER + r"self_attn\.k_proj\.(weight|(?P<bias>bias))",
    "value": LAYER + r"self_attn\.v_proj\.(weight|(?P<bias>bias))",
    "query_norm": LAYER + r"self_attn\.q_norm\.weight",
    "key_norm": LAYER + r"self_attn\.k_norm\.weight",
    "output": LAYER + r"self_attn\.o_proj\.(weight|(?P<bias>bias))",
    "feed_forward_norm": LAYER + r"post_attention_layernorm\.weight",
    "router": LAYER + r"mlp\.router\.weight",
    "balance_bias": LAYER + r"mlp\.router\.balance_(?P<bias>bias)",
    "gate": LAYER + BLOCK + r"gate_proj\.(weight|(?P<bias>bias))",
    "up": LAYER + BLOCK + r"up_proj\.(weight|(?P<bias>bias))",
    "down": LAYER + BLOCK + r"down_proj\.(weight|(?P<bias>bias))",
    "shared_gate": LAYER + r"mlp\.shared_gate\.weight",
    "final_norm": r"model\.norm\.weight",
    "head": r"lm_head\.weight",
}


def by_name(config: ModelConfig, tensor: TensorSlice) -> Role:
    """Return the role that a name tells; the cut as Megatron splits such matrices."""
    ((part, found),) = (
        (part, match)
        for part, pattern in PARTS.items()
        if (match := re.fullmatch(pattern, tensor.name))
    )
    told = {"layer": None, "expert": None, "shared": None, "bias": None} | found.groupdict()
    column = {"embedding", "head", "query", "key", "value", "gate", "up"}
    if config.query_key_norm == "all":
        column |= {"query_norm", "key_norm"}
    row = {"output", "down"} if told["bias"] is None else set()
    return Role(
        part,
        layer=None if told["layer"] is None else int(told["layer"]),
        expert=None if told["expert"] is None else int(told["expert"]),
        shared=told["shared"] is not None,
        bias=told["bias"] is not None,
        cut=0 if part in column else 1 if part in row else None,
        decays=len(tensor.shape) > 1,
        trained=part != "balance_bias",
    )


def check(config: ModelConfig) -> None:
    listed = tensors(config)
    assert [tensor.role for tensor in listed] == [by_name(config, tensor) for tensor in listed]
    assert len({tensor.role for tensor in listed}) == len(listed)


@FAST
@given(st.one_of(configs(), *architectures.FAMILIES.values()))
def test_roles_say_what_names_do(config: ModelConfig) -> None:
    check(config)


@pytest.mark.parametrize("name", PRESETS)
def test_roles_of_published_architectures(name: str) -> None:
    config = preset(name).config
    check(replace(config, layers=min(config.layers, 2)))


def test_every_part_is_in_some_model() -> None:
    assert tuple(PARTS) == get_args(ModelPart)
    assert FINE.moe is not None
    moe: MoeConfig = replace(FINE.moe, balance_bias=True)
    full = replace(FINE, moe=moe, query_key_norm="head", tie_embeddings=False)
    assert {tensor.role.part for tensor in tensors(full)} == set(PARTS)


def test_experts_come_from_the_same_matrix_of_a_dense_layer() -> None:
    dense = {tensor.role: tensor.name for tensor in tensors(SMOLLM2)}
    parents = {
        tensor.name: dense.get(tensor.role.dense) if tensor.role.dense else None
        for tensor in tensors(FINE)
        if tensor.role.layer == 1 and (tensor.role.expert in (None, 3))
    }
    prefix = "model.layers.1.mlp."
    for part in ("gate", "up", "down"):
        for block in ("experts.3.", "shared."):
            assert (
                parents.pop(f"{prefix}{block}{part}_proj.weight") == f"{prefix}{part}_proj.weight"
            )
    assert parents.pop(f"{prefix}router.weight") is None
    assert parents.pop(f"{prefix}shared_gate.weight") is None
    assert all(parent == name for name, parent in parents.items())


def test_norms_begin_at_one_and_nothing_else_is_called_a_norm() -> None:
    listed = tensors(replace(SMOLLM2, query_key_norm="all"))
    named = {tensor.role.part for tensor in listed if tensor.name.endswith("norm.weight")}
    assert named == NORMS
