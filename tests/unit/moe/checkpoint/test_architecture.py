"""config.json against the files beside it: a head that is said to be tied, and is another."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe.checkpoint.architecture import read_architecture
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.weight_files import SINGLE
from moe.config.tensors import HEAD, tensors
from moe.errors import CheckpointError
from moe.nn.build import build
from moe.storage import location
from tests import tiny

EMBEDDING = "model.embed_tokens.weight"
HEADS = {
    "scaled": lambda table: table * 1.01,
    "flipped": lambda table: table.flip(0),
    "last": lambda table: torch.cat((table[:-1], table[-1:] + 1)),
}


def with_head(path: Path, family: str, head: Callable[[Tensor], Tensor]) -> Path:
    tiny.saved(tiny.model(family, num_hidden_layers=1), path)
    table = load_file(path / SINGLE)
    table[HEAD] = head(table[EMBEDDING]).contiguous()
    save_file(table, path / SINGLE, {"format": "pt"})
    return path


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", ["llama", "qwen2", "mixtral"])
def test_another_head_is_computed_with_as_transformers_does(
    family: str, head: str, tmp_path: Path
) -> None:
    path = with_head(tmp_path, family, HEADS[head])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    checkpoint, inputs = Checkpoint.open(path), tiny.tokens(97, 2, 11)
    assert not checkpoint.config.tie_embeddings
    with torch.no_grad():
        ours = build(checkpoint.config, checkpoint.read)(inputs).values
        torch.testing.assert_close(ours, theirs.eval()(inputs).logits, atol=2e-5, rtol=1e-4)
    (note,) = checkpoint.notes
    assert f"{HEAD} in {path} is not {EMBEDDING}, though config.json ties them" in note
    assert read_architecture(path).config == checkpoint.config


def test_an_equal_head_is_read_once_and_said(tmp_path: Path) -> None:
    path = with_head(tmp_path, "llama", torch.clone)
    checkpoint = Checkpoint.open(path)
    assert checkpoint.config.tie_embeddings
    assert checkpoint.notes == read_architecture(path).notes
    assert "equals model.embed_tokens.weight, to which config.json ties it" in checkpoint.notes[0]


def test_another_head_in_another_file_of_another_storage(tmp_path: Path) -> None:
    model = tiny.llama(num_hidden_layers=1, tie_word_embeddings=False)
    model.config.tie_word_embeddings = True
    model.save_pretrained(tmp_path / "model", max_shard_size="12KB")
    at = location(f"local://{tmp_path / 'model'}")
    checkpoint = Checkpoint.open(at)
    assert len(checkpoint.shards.paths) > 1
    assert not checkpoint.config.tie_embeddings
    head = next(each for each in tensors(checkpoint.config) if each.name == HEAD)
    assert torch.equal(checkpoint.read(head), model.lm_head.weight)


def test_a_config_alone_is_taken_at_its_word(tmp_path: Path) -> None:
    path = with_head(tmp_path, "llama", torch.clone)
    (path / SINGLE).unlink()
    assert read_architecture(path).config.tie_embeddings
    index = '{"weight_map": {"lm_head.weight": "a.safetensors", "model.embed_tokens.weight": "a"}}'
    (path / f"{SINGLE}.index.json").write_text(index)
    (note,) = read_architecture(path).notes
    assert "may differ from the embedding" in note
    assert "a.safetensors is missing" in note


def test_a_file_cut_short_is_no_other_head(tmp_path: Path) -> None:
    path = with_head(tmp_path, "llama", torch.clone)
    (path / SINGLE).write_bytes((path / SINGLE).read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        read_architecture(path)


def test_it_is_read_without_torch(tmp_path: Path) -> None:
    path = with_head(tmp_path, "llama", torch.flipud)
    asked = (
        "import sys; from pathlib import Path\n"
        "from moe.checkpoint.architecture import read_architecture\n"
        f"found = read_architecture(Path({str(path)!r})).config.tie_embeddings\n"
        "print(found, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert said.stdout == "False False\n"
