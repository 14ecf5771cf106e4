"""Files we write, read back by the format's own library; and what a failure leaves."""

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from moe.checkpoint.shards import Shards
from moe.checkpoint.weight_files import INDEX, weight_files
from moe.checkpoint.writer import (
    ShardWriter,
    TensorSpec,
    copy_tokenizer,
    pack,
    write_index,
    write_json,
)
from moe.errors import CheckpointError, ConfigError
from tests.examples import examples

FAST = settings(max_examples=examples(25))
TYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    whole = {4: torch.int32, 2: torch.int16}[one.dtype.itemsize]
    return one.dtype == other.dtype and torch.equal(one.view(whole), other.view(whole))


@FAST
@given(
    layout=st.lists(st.tuples(SHAPES, st.sampled_from(TYPES)), min_size=1, max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_the_library_reads_every_bit(
    layout: list[tuple[tuple[int, ...], torch.dtype]],
    order: object,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("bits") / "model.safetensors"
    specs = [TensorSpec(f"t{n}", shape, dtype) for n, (shape, dtype) in enumerate(layout)]
    values = {s.name: torch.randn(s.shape).to(s.dtype) for s in specs}
    names = list(values)
    order.shuffle(names)  # type: ignore[attr-defined]
    with ShardWriter(path, specs) as writer:
        for name in names:
            writer.write(name, values[name])
    loaded = load_file(path)
    assert sorted(loaded) == sorted(values)
    for name, value in values.items():
        assert loaded[name].shape == value.shape
        assert same_bits(loaded[name], value)


@pytest.mark.parametrize("dtype", TYPES)
def test_special_values_and_strided_tensors_survive(dtype: torch.dtype, tmp_path: Path) -> None:
    value = torch.tensor([[float("inf"), -0.0, float("nan")], [1e-7, -65504.0, 3.0]]).to(dtype).T
    path = tmp_path / "a.safetensors"
    with ShardWriter(path, [TensorSpec("x", (3, 2), dtype)]) as writer:
        writer.write("x", value.requires_grad_())
    assert same_bits(load_file(path)["x"], value.detach().contiguous())


def test_a_tensor_takes_the_type_of_its_place(tmp_path: Path) -> None:
    value, path = torch.randn(7), tmp_path / "a.safetensors"
    with ShardWriter(path, [TensorSpec("x", (7,), torch.bfloat16)]) as writer:
        writer.write("x", value)
    assert same_bits(load_file(path)["x"], value.bfloat16())


def test_wide_types_are_aligned_behind_narrow_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    specs = [TensorSpec("a", (3,), torch.bfloat16), TensorSpec("b", (2,), torch.float32)]
    with ShardWriter(path, specs) as writer:
        writer.write("a", torch.ones(3))
        writer.write("b", torch.ones(2))
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0
    assert header["b"]["data_offsets"][0] % 4 == 0


def test_several_shards_and_their_index(tmp_path: Path) -> None:
    specs = [TensorSpec(f"layer.{n}.weight", (n + 1, 3), torch.float32) for n in range(7)]
    values = {spec.name: torch.randn(spec.shape) for spec in specs}
    shards = {f"part-{n}.safetensors": shard for n, shard in enumerate(pack(specs, limit=100))}
    assert len(shards) > 2
    for file, shard in shards.items():
        with ShardWriter(tmp_path / file, shard) as writer:
            for spec in shard:
                writer.write(spec.name, values[spec.name])
    write_index(tmp_path, INDEX, shards)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(4 * v.numel() for v in values.values())
    assert index["weight_map"] == {s.name: file for file, shard in shards.items() for s in shard}
    loaded = {}
    for file in shards:
        loaded |= load_file(tmp_path / file)
    reader = Shards(weight_files(tmp_path))
    assert reader.names == values.keys()
    for name, value in values.items():
        assert same_bits(loaded[name], value)
        assert same_bits(reader.read(name), value)


@FAST
@given(rows=st.lists(st.integers(0, 12), max_size=12), limit=st.integers(1, 60))
def test_packing_keeps_order_and_limit(rows: list[int], limit: int) -> None:
    specs = [TensorSpec(str(n), (row,), torch.float32) for n, row in enumerate(rows)]
    shards = pack(specs, limit)
    assert [spec for shard in shards for spec in shard] == specs
    sizes = [sum(spec.bytes for spec in shard) for shard in shards]
    for shard, size in zip(shards, sizes, strict=True):
        assert size <= limit or len([spec for spec in shard if spec.bytes]) == 1
    for (_, size), (after, _) in pairwise(zip(shards, sizes, strict=True)):
        assert size + after[0].bytes > limit, "a shard was left half empty"


def test_a_tensor_never_written_is_an_error(tmp_path: Path) -> None:
    specs = [TensorSpec("a", (2,), torch.float32), TensorSpec("b", (2,), torch.float32)]
    with (
        pytest.raises(CheckpointError, match="1 tensors were never written, the first is b"),
        ShardWriter(tmp_path / "x.safetensors", specs) as writer,
    ):
        writer.write("a", torch.zeros(2))


def test_an_error_inside_is_not_hidden_by_the_unwritten(tmp_path: Path) -> None:
    specs = [TensorSpec("a", (2,), torch.float32)]
    with pytest.raises(ConfigError, match="mine"), ShardWriter(tmp_path / "x", specs):
        raise ConfigError("mine")


def test_a_wrong_shape_or_type_is_refused(tmp_path: Path) -> None:
    spec = TensorSpec("a", (2, 3), torch.float32)
    with (
        pytest.raises(CheckpointError, match=r"a has shape \(3, 2\), the file has room for \(2, 3"),
        ShardWriter(tmp_path / "x.safetensors", [spec]) as writer,
    ):
        writer.write("a", torch.zeros(3, 2))
    with pytest.raises(CheckpointError, match=r"a is torch\.int8; raymoe writes F32, BF16, F16"):
        ShardWriter(tmp_path / "y.safetensors", [TensorSpec("a", (2,), torch.int8)])
    assert not (tmp_path / "y.safetensors").exists()


def test_the_tokenizer_is_copied_and_the_weights_are_not(tmp_path: Path) -> None:
    source, to = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    to.mkdir()
    wanted = {"tokenizer.json", "tokenizer_config.json", "tokenizer.model", "added_tokens.json"}
    wanted |= {"special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja"}
    wanted |= {"generation_config.json", "LICENSE.txt"}
    for name in wanted | {"model.safetensors", "config.json", "pytorch_model.bin"}:
        (source / name).write_text(name)
    copy_tokenizer(source, to)
    assert {path.name: path.read_text() for path in to.iterdir()} == {name: name for name in wanted}


def test_shards_name_each_file_once(tmp_path: Path) -> None:
    one, other = tmp_path / "1", tmp_path / "2"
    assert Shards({"b": other, "a": one, "c": one}).paths == (one, other)


def test_json_is_on_the_disk_before_anything_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced, fsync = tmp_path / "a.json", [], os.fsync

    def record(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, path.read_text()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_json(path, {"a": 1})
    assert synced == [(path.stat().st_ino, path.read_text())]
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(value: float, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"a\.json cannot be written as JSON: .*; give finite"
    ):
        write_json(tmp_path / "a.json", {"distance": [value]})
    assert not list(tmp_path.iterdir())
