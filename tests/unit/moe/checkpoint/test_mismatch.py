"""Directories whose tensors are not those of their config.json: what is said of each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.weight_files import SINGLE
from moe.errors import CheckpointError
from tests import tiny


def renamed(path: Path, change: Callable[[str], str], model: Any = None) -> Path:
    tiny.saved(model or tiny.llama(num_hidden_layers=1), path)
    table = {change(name): value for name, value in load_file(path / SINGLE).items()}
    save_file(table, path / SINGLE, {"format": "pt"})
    return path


@pytest.mark.parametrize(
    ("prefix", "advice"),
    [
        ("_orig_mod.", r"torch\.compile adds; save the module inside it \(model\._orig_mod\)"),
        ("module.", r"DistributedDataParallel adds; .*model\.module"),
        ("base_model.model.", "peft adds; merge the adapter"),
        ("language_model.", "as part of another model; save the language model alone"),
    ],
)
def test_a_wrapper_around_the_model(prefix: str, advice: str, tmp_path: Path) -> None:
    path = renamed(tmp_path, lambda name: prefix + name)
    with pytest.raises(CheckpointError, match=f"names that begin with {prefix}, .*{advice}"):
        Checkpoint.open(path)


def test_names_of_another_form(tmp_path: Path) -> None:
    path = renamed(
        tmp_path,
        lambda name: name.replace("experts.", "moe_experts."),
        tiny.mixtral(num_hidden_layers=1),
    )
    said = "lacks 12 tensors, .* and holds 12 that its config.json does not explain"
    with pytest.raises(CheckpointError, match=f"{said}.*load the directory with transformers"):
        Checkpoint.open(path)


def test_fused_experts_the_other_way_round(tmp_path: Path) -> None:
    model = tiny.mixtral(num_hidden_layers=1)
    model.save_pretrained(tmp_path, save_original_format=False)
    table = load_file(tmp_path / SINGLE)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    table[name] = table[name].transpose(1, 2).contiguous()
    save_file(table, tmp_path / SINGLE, {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"has shape \(4, 24, 80\), config.json asks for \(4, 80, 24\)"
    ):
        Checkpoint.open(tmp_path)


def test_tensors_that_the_index_does_not_list(tmp_path: Path) -> None:
    model = tiny.llama(num_hidden_layers=1)
    model.save_pretrained(tmp_path, max_shard_size="12KB")
    last = sorted(tmp_path.glob("model-*"))[-1]
    table = load_file(last)
    save_file(table | {"model.embed_tokens.weight": torch.ones(97, 24)}, last, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight lies in .* and in "):
        Checkpoint.open(tmp_path)
    save_file(table | {"other": torch.ones(1)}, last, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"other lies in .* but the index has no such"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("lost", "name", "said"),
    [
        (None, "model.layers.0.self_attn.q_proj.lora_A.weight", "of an adapter beside the model"),
        (None, "v_head.weight", r"holds 1 tensors .* the first is v_head\.weight"),
        ("lm_head.weight", "score.weight", r"lacks 1 .* does not explain, .* score\.weight"),
        (
            "model.norm.weight",
            "model.norm.weight",
            r"has shape \(2, 24\), .* belong to different models",
        ),
    ],
)
def test_tensors_of_something_else(lost: str | None, name: str, said: str, tmp_path: Path) -> None:
    tiny.saved(tiny.llama(num_hidden_layers=1, tie_word_embeddings=False), tmp_path)
    table = load_file(tmp_path / SINGLE)
    table.pop(lost or "", None)
    save_file(table | {name: torch.zeros(2, 24)}, tmp_path / SINGLE, {"format": "pt"})
    with pytest.raises(CheckpointError, match=said):
        Checkpoint.open(tmp_path)


def test_a_config_that_begins_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tiny.saved(tiny.llama(num_hidden_layers=1), tmp_path) / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Checkpoint.open(tmp_path).config.layers == 1
