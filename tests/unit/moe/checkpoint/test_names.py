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
    ("family", "changes"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"tie_word_embeddings": False}),
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen3", {"attention_bias": True}),
        ("mixtral", {"num_local_experts": 12}),
        ("mixtral", {"tie_word_embeddings": False}),
        ("olmoe", {"num_experts": 12}),
        ("olmoe", {"attention_bias": True}),
        ("qwen2_moe", {"num_experts": 12}),
        ("qwen2_moe", {"qkv_bias": False, "mlp_only_layers": [1]}),
        ("qwen3_moe", {"num_experts": 12, "decoder_sparse_step": 2}),
    ],
)
def test_names_are_those_transformers_writes(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny.model(family, **changes)
    tiny.saved(model, tmp_path)
    config = read_config(model.config.to_dict())
    ours = [disk_name(family, tensor.name) for tensor in tensors(config)]
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert sorted(ours) == sorted(file.keys())


LAYER = "model.layers.51."
MIXTRAL = {
    "mlp.router.weight": "block_sparse_moe.gate.weight",
    "mlp.experts.15.gate_proj.weight": "block_sparse_moe.experts.15.w1.weight",
    "mlp.experts.15.up_proj.weight": "block_sparse_moe.experts.15.w3.weight",
    "mlp.experts.15.down_proj.weight": "block_sparse_moe.experts.15.w2.weight",
    "mlp.down_proj.weight": "mlp.down_proj.weight",
    "self_attn.q_proj.weight": "self_attn.q_proj.weight",
}
QWEN = {
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.experts.15.gate_proj.weight": "mlp.experts.15.gate_proj.weight",
    "mlp.shared.gate_proj.weight": "mlp.shared_expert.gate_proj.weight",
    "mlp.shared_gate.weight": "mlp.shared_expert_gate.weight",
    "mlp.gate_proj.weight": "mlp.gate_proj.weight",
}
DEEPSEEK = {
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.router.balance_bias": "mlp.gate.e_score_correction_bias",
    "mlp.experts.15.down_proj.weight": "mlp.experts.15.down_proj.weight",
    "mlp.shared.down_proj.weight": "mlp.shared_experts.down_proj.weight",
    "mlp.shared_gate.weight": "mlp.shared_expert_gate.weight",
}


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("mixtral", MIXTRAL),
        ("skywork_moe", MIXTRAL),
        ("olmoe", QWEN),
        ("qwen2_moe", QWEN),
        ("qwen3_moe", QWEN),
        ("deepseek", DEEPSEEK),
        ("raymoe", DEEPSEEK),
    ],
)
def test_names_of_experts(family: str, names: dict[str, str]) -> None:
    assert {ours: disk_name(family, LAYER + ours) for ours in names} == {
        ours: LAYER + theirs for ours, theirs in names.items()
    }


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "skywork"])
def test_a_dense_model_has_our_names(family: str) -> None:
    for name in (*QWEN.values(), "mlp.gate_proj.bias", "self_attn.q_norm.weight"):
        assert disk_name(family, LAYER + name) == LAYER + name
