"""Files written front to back are those of the library, and buffers are kept."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from moe.checkpoint.buffers import Buffers
from moe.checkpoint.digest import sha256
from moe.checkpoint.streamed import streamed
from moe.checkpoint.transfer import DirectTransfer
from moe.checkpoint.writer import TensorSpec, in_order
from moe.errors import CheckpointError

SPECS = [
    TensorSpec("a", (3,), torch.bfloat16),
    TensorSpec("b", (2, 2), torch.float32),
    TensorSpec("c", (0, 4), torch.float16),
    TensorSpec("d", (1,), torch.float32),
]


def test_the_library_reads_every_bit_and_hashes_are_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    values = {spec.name: torch.randn(spec.shape).to(spec.dtype) for spec in SPECS}
    with streamed(path, SPECS) as writer:
        digests = {
            spec.name: writer.write(spec.name, values[spec.name]) for spec in in_order(SPECS)
        }
    loaded = load_file(path)
    for name, value in values.items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value)
        raw = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        assert digests[name] == hashlib.sha256(raw).hexdigest() == sha256(value)


def test_the_order_the_shape_and_the_end_are_checked(tmp_path: Path) -> None:
    specs = SPECS[1:2] + SPECS[3:]
    with (
        pytest.raises(CheckpointError, match=r"has room for b, \(2, 2\) of .*; got d, \(1,\)"),
        streamed(tmp_path / "1", specs) as writer,
    ):
        writer.write("d", torch.zeros(1))
    with (
        pytest.raises(CheckpointError, match="1 tensors were never written, the first is d"),
        streamed(tmp_path / "2", specs) as writer,
    ):
        writer.write("b", torch.zeros(2, 2))
    with pytest.raises(CheckpointError, match="twice"), streamed(tmp_path / "3", specs * 2):
        pass


def test_the_hash_of_a_tensor_is_that_of_its_memory_order() -> None:
    value = torch.randn(4, 6)
    assert sha256(value.T) == sha256(value.T.contiguous()) != sha256(value)
    assert sha256(value[:, 3:4][:1]) == sha256(value[0, 3].clone())


def test_buffers_hold_copies_in_the_same_memory_every_time() -> None:
    buffers = Buffers(DirectTransfer())
    tensors = [torch.randn(5, 3), torch.randn(7).bfloat16(), torch.randn(4, 4).T, torch.zeros(0)]
    first = buffers.copied(tensors)
    size, places = buffers.bytes, [copy.data_ptr() for copy in first]
    before = [tensor.clone() for tensor in tensors]
    for tensor in tensors:
        tensor.add_(1)
    assert all(copy.equal(old) for copy, old in zip(first, before, strict=True))
    second = buffers.copied(tensors)
    assert [copy.data_ptr() for copy in second] == places
    assert buffers.bytes == size
    assert all(copy.equal(tensor) for copy, tensor in zip(second, tensors, strict=True))
    assert all(place % 64 == places[0] % 64 for place in places[:3])
    buffers.copied([torch.zeros(1000)])
    assert buffers.bytes >= 4000


def test_memory_made_ready_is_the_memory_that_is_used() -> None:
    buffers, tensors = Buffers(DirectTransfer()), [torch.randn(100, 30), torch.randn(70)]
    buffers.prepare(tensors)
    copies = buffers.copied(tensors)
    size = buffers.bytes
    assert 100 * 30 * 4 + 70 * 4 <= size < 100 * 30 * 4 + 70 * 4 + 128
    assert all(copy.equal(tensor) for copy, tensor in zip(copies, tensors, strict=True))
    buffers.prepare(tensors)
    buffers.copied(tensors[:1])
    assert buffers.bytes == size
