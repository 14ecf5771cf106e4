"""Model directories opened whole, in spans, and broken in every way we know."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from moe.checkpoint.names import disk_name
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.shards import Shards
from moe.checkpoint.weight_files import INDEX, SINGLE
from moe.config.json_file import read_json
from moe.config.share import Share
from moe.config.tensors import held_by, tensors
from moe.errors import CheckpointError, ConfigError
from tests import tiny
from tests.examples import examples

FAST = settings(max_examples=examples(40))


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return tiny.saved(tiny.mixtral(num_hidden_layers=2), tmp_path / "single")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    model = tiny.llama(num_hidden_layers=2, tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    return tmp_path / "sharded"


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    table = load_file(path / SINGLE)
    change(table)
    save_file({name: value.contiguous() for name, value in table.items()}, path / SINGLE)


def reconfigured(path: Path, **changes: Any) -> None:
    table = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(table | changes))


def shard_of(path: Path) -> Path:
    return sorted(path.glob("model-*.safetensors"))[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_are_read_as_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tiny.saved(tiny.mixtral(num_hidden_layers=1).to(dtype), tmp_path)
    checkpoint, expected = Checkpoint.open(path), load_file(path / SINGLE)
    assert checkpoint.dtype == dtype
    for tensor in tensors(checkpoint.config):
        value = checkpoint.read(tensor)
        assert checkpoint.dtype_of(tensor) == value.dtype == dtype
        assert torch.equal(value, expected[disk_name("mixtral", tensor.name)])


def test_shards_are_read_by_their_index(sharded: Path) -> None:
    checkpoint = Checkpoint.open(sharded)
    assert len(checkpoint.shards.paths) > 2
    expected: dict[str, torch.Tensor] = {}
    for file in checkpoint.shards.paths:
        expected |= load_file(file)
    for tensor in tensors(checkpoint.config):
        assert torch.equal(checkpoint.read(tensor), expected[tensor.name])


def test_of_both_forms_the_one_that_transformers_takes_is_read(sharded: Path) -> None:
    model = tiny.llama(seed=1, num_hidden_layers=2, tie_word_embeddings=False)
    model.save_pretrained(sharded.parent / "other")
    (sharded.parent / "other" / SINGLE).rename(sharded / SINGLE)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(sharded).state_dict()
    checkpoint = Checkpoint.open(sharded)
    assert checkpoint.shards.paths == (sharded / SINGLE,)
    for tensor in tensors(checkpoint.config):
        assert torch.equal(checkpoint.read(tensor), theirs[tensor.name])


@FAST
@given(data=st.data())
def test_spans_equal_slicing(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("spans") / SINGLE
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    value = torch.randn(shape)
    save_file({"x": value}, path)
    dim = data.draw(st.integers(0, len(shape) - 1))
    start = data.draw(st.integers(0, shape[dim]))
    stop = data.draw(st.integers(start, shape[dim]))
    shards = Shards({"x": path})
    box = tuple((start, stop) if d == dim else (0, size) for d, size in enumerate(shape))
    assert torch.equal(shards.read("x", box), value.narrow(dim, start, stop - start))
    assert shards.shape("x") == tuple(shape)


def test_a_share_reads_its_slices(sharded: Path) -> None:
    checkpoint = Checkpoint.open(sharded)
    share = Share((1, 2), False, True, (1, 3), (11, 40), ())
    held = list(held_by(checkpoint.config, share))
    assert {tensor.dim for tensor in held} == {None, 0, 1}
    for tensor in held:
        (whole,) = [t for t in tensors(checkpoint.config) if t.name == tensor.name]
        expected = checkpoint.read(whole)
        if tensor.dim is not None:
            expected = expected.narrow(tensor.dim, tensor.start, tensor.stop - tensor.start)
        assert tuple(expected.shape) == tensor.held_shape
        assert torch.equal(checkpoint.read(tensor), expected)


def test_a_tied_head_and_old_rotary_buffers_on_disk_are_passed_over(single: Path) -> None:
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"

    def add(table: dict[str, torch.Tensor]) -> None:
        table["lm_head.weight"] = table["model.embed_tokens.weight"].clone()
        table[buffer] = torch.ones(4)

    rewritten(single, add)
    assert Checkpoint.open(single).config.tie_embeddings


def fails(path: Path, message: str, error: type[Exception] = CheckpointError) -> None:
    with pytest.raises(error, match=message):
        Checkpoint.open(path)


def test_no_directory(tmp_path: Path) -> None:
    fails(tmp_path / "nowhere", "no model directory at .*nowhere")
    (tmp_path / "file").write_text("")
    fails(tmp_path / "file", "no model directory")


def test_no_config(single: Path) -> None:
    (single / "config.json").unlink()
    fails(single, r"config\.json is missing; .*single is not a model directory")


@pytest.mark.parametrize("text", [b"{", b"", b"\xff\xfe{}"])
def test_config_that_is_no_json(text: bytes, single: Path) -> None:
    (single / "config.json").write_bytes(text)
    fails(single, r"config\.json cannot be read: ")


def test_config_that_is_no_object(single: Path) -> None:
    (single / "config.json").write_text("[1]")
    fails(single, r"config\.json holds no JSON object")


def test_unknown_model_type(single: Path) -> None:
    reconfigured(single, model_type="mamba")
    fails(single, "model_type 'mamba'; raymoe reads llama, mistral", ConfigError)


def test_no_weights(single: Path) -> None:
    (single / SINGLE).unlink()
    fails(single, r"holds no model\.safetensors and no model\.safetensors\.index\.json")


def test_pickles_only(single: Path) -> None:
    (single / SINGLE).rename(single / "pytorch_model.bin")
    fails(single, r"pytorch_model\.bin, a pickle .*save_pretrained.* safetensors")


@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_a_truncated_file(size: int, single: Path) -> None:
    raw = (single / SINGLE).read_bytes()
    (single / SINGLE).write_bytes(raw[:size])
    fails(single, r"model\.safetensors is damaged or cut short: .*; copy it again")


def test_a_truncated_shard(sharded: Path) -> None:
    raw = shard_of(sharded).read_bytes()
    shard_of(sharded).write_bytes(raw[:-1])
    fails(sharded, f"{shard_of(sharded).name} is damaged or cut short")


def test_a_missing_shard(sharded: Path) -> None:
    name = shard_of(sharded).name
    shard_of(sharded).unlink()
    fails(sharded, f"{name} is missing though the index names it")


def test_a_shard_that_lacks_what_the_index_says(sharded: Path) -> None:
    one, other = sorted(sharded.glob("model-*.safetensors"))[:2]
    other.write_bytes(one.read_bytes())
    fails(sharded, f"{other.name} does not hold .*, as its index says")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"a": 3}}', "names no files"),
    ],
)
def test_a_bad_index(text: str, message: str, sharded: Path) -> None:
    (sharded / INDEX).write_text(text)
    fails(sharded, message)


def test_a_missing_tensor(single: Path) -> None:
    lost = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
    rewritten(single, lambda table: table.pop(lost))
    fails(single, f"lacks 1 tensors, the first is {lost}; the model is incomplete")


def test_an_expert_too_many(single: Path) -> None:
    name = "model.layers.1.block_sparse_moe.experts.4.w2.weight"
    rewritten(single, lambda table: table.update({name: torch.zeros(24, 40)}))
    fails(single, f"holds 1 tensors its config.json does not explain, the first is {name}")


def test_a_wrong_shape(single: Path) -> None:
    reconfigured(single, intermediate_size=41)
    fails(single, r"has shape \(40, 24\), config.json asks for \(41, 24\)")


def test_a_type_we_do_not_compute(single: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"

    def quantise(table: dict[str, torch.Tensor]) -> None:
        table[name] = table[name].to(torch.float8_e4m3fn)

    rewritten(single, quantise)
    fails(single, f"{name} in .* is F8_E4M3; raymoe reads F32, BF16, F16, convert the model")


def test_json_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json(tmp_path)


def test_asking_for_a_tensor_nobody_has(single: Path) -> None:
    with pytest.raises(CheckpointError, match="tensor absent is in none of the files"):
        Checkpoint.open(single).shards.read("absent")
