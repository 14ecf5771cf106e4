"""Forms of one model that transformers writes: all read as the one that it writes by default."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from moe.checkpoint.layouts import FUSED_FAMILIES
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.weight_files import SINGLE
from moe.config.share import Share
from moe.config.tensors import held_by, tensors
from moe.errors import CheckpointError
from moe.nn.build import build
from moe.storage import location
from tests import tiny

NAME = "model.layers.0.mlp.experts.2.{}_proj.weight"


def fused(model: Any, path: Path) -> Path:
    model.save_pretrained(path, save_original_format=False)
    return path


def same_tensors(one: Checkpoint, other: Checkpoint) -> None:
    assert one.config == other.config
    for tensor in tensors(one.config):
        assert one.dtype_of(tensor) == other.dtype_of(tensor)
        assert torch.equal(one.read(tensor), other.read(tensor)), tensor.name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", sorted(FUSED_FAMILIES))
def test_fused_experts_are_those_of_one_tensor_each(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = tiny.model(family, num_hidden_layers=2).to(dtype)
    one = Checkpoint.open(fused(model, tmp_path / "fused"))
    same_tensors(one, Checkpoint.open(tiny.saved(model, tmp_path / "default")))
    assert any(name.endswith("experts.gate_up_proj") for name in one.shards.names)


def test_a_model_with_fused_experts_computes_the_logits_of_transformers(tmp_path: Path) -> None:
    path = fused(tiny.model("qwen3_moe", num_hidden_layers=2), tmp_path / "fused")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    checkpoint, inputs = Checkpoint.open(path), tiny.tokens(97, 2, 11)
    with torch.no_grad():
        ours = build(checkpoint.config, checkpoint.read)(inputs).values
        torch.testing.assert_close(ours, theirs.eval()(inputs).logits, atol=2e-5, rtol=1e-4)


def test_a_share_reads_only_its_experts(tmp_path: Path) -> None:
    path = fused(tiny.mixtral(num_hidden_layers=2), tmp_path / "fused")
    checkpoint = Checkpoint.open(path)
    share = Share((1, 2), False, False, (1, 3), (0, 40), (1, 3))
    held = [tensor for tensor in held_by(checkpoint.config, share) if ".experts." in tensor.name]
    assert len(held) == 6
    whole = load_file(path / SINGLE)
    rows = whole["model.layers.1.mlp.experts.gate_up_proj"]
    up = next(each for each in held if (each.role.part, each.role.expert) == ("up", 3))
    assert torch.equal(checkpoint.read(up), rows[3, 40:])


@pytest.mark.parametrize(
    ("part", "dim", "span"),
    [("gate", 0, (3, 9)), ("up", 0, (0, 40)), ("up", 1, (5, 6)), ("down", 0, (7, 7))],
)
@pytest.mark.parametrize("remote", [False, True])
def test_spans_of_a_fused_expert(
    remote: bool, part: str, dim: int, span: tuple[int, int], tmp_path: Path
) -> None:
    path = fused(tiny.mixtral(num_hidden_layers=1), tmp_path / "fused")
    at = location(f"local://{path}") if remote else path
    checkpoint = Checkpoint.open(at)
    named = {tensor.name: tensor for tensor in tensors(checkpoint.config)}
    whole = named[NAME.format(part)]
    expected = checkpoint.read(whole).narrow(dim, span[0], span[1] - span[0])
    own = replace(whole, dim=dim, start=span[0], stop=span[1])
    assert torch.equal(checkpoint.read(own), expected)


def test_a_model_saved_without_its_head_is_read_where_the_head_is_tied(tmp_path: Path) -> None:
    model = tiny.llama(num_hidden_layers=2)
    model.model.save_pretrained(tmp_path / "bare")
    bare = Checkpoint.open(tmp_path / "bare")
    same_tensors(bare, Checkpoint.open(tiny.saved(model, tmp_path / "default")))
    assert "embed_tokens.weight" in bare.shards.names
    untied = tiny.llama(num_hidden_layers=2, tie_word_embeddings=False)
    untied.model.save_pretrained(tmp_path / "headless")
    with pytest.raises(CheckpointError, match=r"lacks lm_head\.weight, .*saved without its head"):
        Checkpoint.open(tmp_path / "headless")


def test_a_tied_embedding_under_the_name_of_the_head(tmp_path: Path) -> None:
    model = tiny.llama(num_hidden_layers=1)
    same = Checkpoint.open(tiny.saved(model, tmp_path / "default"))
    table = load_file(tiny.saved(model, tmp_path / "head") / SINGLE)
    table["lm_head.weight"] = table.pop("model.embed_tokens.weight")
    save_file(table, tmp_path / "head" / SINGLE, {"format": "pt"})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "head")
    assert torch.equal(theirs.model.embed_tokens.weight, table["lm_head.weight"])
    same_tensors(Checkpoint.open(tmp_path / "head"), same)
