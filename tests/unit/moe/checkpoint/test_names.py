"""Our tensor names against those transformers writes."""

from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from moe.checkpoint.names import disk_name
from moe.config.families import read_config
from moe.config.tensors import tensors
from tests import tiny


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (tiny.llama, {"attention_bias": True, "mlp_bias": True}),
        (tiny.llama, {"tie_word_embeddings": False}),
        (tiny.mixtral, {"num_local_experts": 12}),
        (tiny.mixtral, {"tie_word_embeddings": False}),
    ],
)
def test_names_are_those_transformers_writes(
    make: Any, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = make(**changes)
    tiny.saved(model, tmp_path)
    config = read_config(model.config.to_dict())
    ours = [disk_name(config.family, tensor.name) for tensor in tensors(config)]
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert sorted(ours) == sorted(file.keys())


def test_skywork_moe_has_the_names_of_mixtral() -> None:
    layer = "model.layers.51."
    for ours, theirs in {
        "mlp.router.weight": "block_sparse_moe.gate.weight",
        "mlp.experts.15.gate_proj.weight": "block_sparse_moe.experts.15.w1.weight",
        "mlp.experts.15.up_proj.weight": "block_sparse_moe.experts.15.w3.weight",
        "mlp.experts.15.down_proj.weight": "block_sparse_moe.experts.15.w2.weight",
        "self_attn.q_proj.weight": "self_attn.q_proj.weight",
    }.items():
        for family in ("mixtral", "skywork_moe"):
            assert disk_name(family, layer + ours) == layer + theirs
