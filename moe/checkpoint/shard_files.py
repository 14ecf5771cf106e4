"""One open safetensors file: local through the format's library, remote by byte ranges.

Of a remote file, only the header and the bytes of the requested tensors are read.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from moe.checkpoint.boxes import Box, lengths
from moe.checkpoint.header import damaged, header_of, missing
from moe.storage import Location, RemotePath

NAMED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Dtypes in which raymoe reads and writes tensors, by their names in the format."""
STORED = NAMED | {"F8_E4M3": torch.float8_e4m3fn, "I32": torch.int32, "I64": torch.int64}
"""Dtypes in files, with those that quantised matrices are made of."""
TYPES = {dtype: name for name, dtype in STORED.items()}


class ShardFile(Protocol):
    """The interface of an open file."""

    @property
    def names(self) -> frozenset[str]:
        """Names of the tensors in the file."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        ...

    def dtype(self, name: str) -> str:
        """Return the dtype of a tensor, by its name in the format."""
        ...

    def read(self, name: str, box: Box | None = None) -> Tensor:
        """Return a tensor, or a box of it."""
        ...


class LocalShard:
    """A file on a disk, mapped into memory."""

    def __init__(self, path: Path) -> None:
        try:
            self._file: Any = safe_open(str(path), framework="pt")
        except FileNotFoundError:
            raise missing(path) from None
        except (SafetensorError, OSError) as error:
            raise damaged(path, error) from error

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the tensors in the file, listed once: every read of a tensor asks for them."""
        return frozenset(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        return tuple(self._file.get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Return the dtype of a tensor, by its name in the format."""
        return str(self._file.get_slice(name).get_dtype())

    def read(self, name: str, box: Box | None = None) -> Tensor:
        """Return a tensor, or a box of it."""
        part = self._file.get_slice(name)
        index = ... if box is None else tuple(slice(start, stop) for start, stop in box)
        tensor: Tensor = part[index]
        return tensor


class RemoteShard:
    """A file in remote storage; for a box, the range from its first to its last byte is read."""

    def __init__(self, path: RemotePath) -> None:
        self._path = path
        try:
            self._file = path.open_input()
        except FileNotFoundError:
            raise missing(path) from None
        header = header_of(path, self._file)
        self._entries, self._begin = header.entries, header.begin

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the tensors in the file, listed once: every read of a tensor asks for them."""
        return frozenset(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        return self._entries[name].shape

    def dtype(self, name: str) -> str:
        """Return the dtype of a tensor, by its name in the format."""
        return self._entries[name].dtype

    def read(self, name: str, box: Box | None = None) -> Tensor:
        """Return a tensor, or a box of it."""
        entry = self._entries[name]
        dtype = STORED[entry.dtype]
        box = box if box is not None else tuple((0, size) for size in entry.shape)
        size, strides = lengths(box), _strides(entry.shape)
        if 0 in size:
            return torch.empty(size, dtype=dtype)
        first = _offset([start for start, _ in box], strides)
        last = _offset([stop - 1 for _, stop in box], strides)
        begin = entry.begin + first * dtype.itemsize
        raw = self._bytes(name, begin, entry.begin + (last + 1) * dtype.itemsize)
        return raw.view(dtype).as_strided(size, strides).contiguous()

    def _bytes(self, name: str, begin: int, end: int) -> Tensor:
        raw = torch.empty(end - begin, dtype=torch.uint8)
        with self._path.doing("read"):
            self._file.seek(self._begin + begin)
            found = self._file.readinto(raw.numpy().data) if len(raw) else 0
        if found != len(raw):
            raise damaged(self._path, f"{name} has {found} of {len(raw)} bytes")
        return raw


def open_shard(path: Location) -> ShardFile:
    """Open a file; CheckpointError if it is missing or its header is damaged."""
    return RemoteShard(path) if isinstance(path, RemotePath) else LocalShard(path)


def _offset(corner: Sequence[int], strides: Sequence[int]) -> int:
    """Return the offset of an element in a row-major tensor."""
    return sum(at * stride for at, stride in zip(corner, strides, strict=True))


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the stride of every dimension, in elements."""
    strides: tuple[int, ...] = ()
    step = 1
    for size in reversed(shape):
        strides, step = (step, *strides), step * size
    return strides
