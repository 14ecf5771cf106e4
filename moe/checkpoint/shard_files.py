"""One safetensors file, opened: locally through the format's library, remotely by byte ranges.

The format is a length, a JSON header that places every tensor, then the bytes. From a remote file
the header is read first, and then only the bytes of the tensors asked for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from moe.errors import CheckpointError
from moe.storage import Location, RemotePath

NAMED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Types that raymoe reads and writes, by their names in the format."""
TYPES = {dtype: name for name, dtype in NAMED.items()}

_FIRST_READ = 2**17
"""Bytes of a remote file that are read at once in the hope that the header is among them."""


class ShardFile(Protocol):
    """What all files offer."""

    @property
    def names(self) -> frozenset[str]:
        """Names of the tensors in it."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        ...

    def dtype(self, name: str) -> str:
        """Return what the format calls the type of a tensor."""
        ...

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int = 0) -> Tensor:
        """Return a tensor, or its span ``[start, stop)`` along ``dim``."""
        ...


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class LocalShard:
    """A file on a disk, mapped into memory."""

    def __init__(self, path: Path) -> None:
        try:
            self._file: Any = safe_open(str(path), framework="pt")
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing though the index names it") from None
        except (SafetensorError, OSError) as error:
            raise _damaged(path, error) from error

    @property
    def names(self) -> frozenset[str]:
        """Names of the tensors in it."""
        return frozenset(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        return tuple(self._file.get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Return what the format calls the type of a tensor."""
        return str(self._file.get_slice(name).get_dtype())

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int = 0) -> Tensor:
        """Return a tensor, or its span ``[start, stop)`` along ``dim``."""
        part = self._file.get_slice(name)
        if dim is None:
            tensor: Tensor = part[...]
        else:
            tensor = part[(slice(None),) * dim + (slice(start, stop),)]
        return tensor


class RemoteShard:
    """A file in another storage; a span of rows is read alone, one of columns with its tensor."""

    def __init__(self, path: RemotePath) -> None:
        self._path = path
        try:
            self._file = path.open_input()
            size = self._file.size()
            self._entries, self._begin = _header(self._file, size)
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing though the index names it") from None
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path, error) from error
        end = self._begin + max((entry.end for entry in self._entries.values()), default=0)
        if end != size:
            raise _damaged(path, f"its header asks for {end} bytes, it has {size}")

    @property
    def names(self) -> frozenset[str]:
        """Names of the tensors in it."""
        return frozenset(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        return self._entries[name].shape

    def dtype(self, name: str) -> str:
        """Return what the format calls the type of a tensor."""
        return self._entries[name].dtype

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int = 0) -> Tensor:
        """Return a tensor, or its span ``[start, stop)`` along ``dim``."""
        entry = self._entries[name]
        dtype = NAMED[entry.dtype]
        if dim != 0:
            whole = self._bytes(name, entry.begin, entry.end).view(dtype).view(entry.shape)
            return whole if dim is None else whole.narrow(dim, start, stop - start).contiguous()
        row = prod(entry.shape[1:]) * dtype.itemsize
        raw = self._bytes(name, entry.begin + start * row, entry.begin + stop * row)
        return raw.view(dtype).view(stop - start, *entry.shape[1:])

    def _bytes(self, name: str, begin: int, end: int) -> Tensor:
        raw = torch.empty(end - begin, dtype=torch.uint8)
        with self._path.doing("read"):
            self._file.seek(self._begin + begin)
            found = self._file.readinto(raw.numpy().data) if len(raw) else 0
        if found != len(raw):
            raise _damaged(self._path, f"{name} has {found} of {len(raw)} bytes")
        return raw


def open_shard(path: Location) -> ShardFile:
    """Open a file; CheckpointError where it is missing or its header is damaged."""
    return RemoteShard(path) if isinstance(path, RemotePath) else LocalShard(path)


def cut_off(path: Location) -> list[str]:
    """Return the tensors that a file too short for its header has lost; all where that is lost."""
    try:
        with path.open_input() if isinstance(path, RemotePath) else path.open("rb") as file:
            size = file.seek(0, 2)
            entries, begin = _header(file, size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return sorted(name for name, entry in entries.items() if begin + entry.end > size)


def _header(file: Any, size: int) -> tuple[dict[str, _Entry], int]:
    """Return the places of the tensors and where their bytes begin."""
    file.seek(0)
    raw = file.read(min(size, _FIRST_READ))
    length = int.from_bytes(raw[:8], "little")
    if not 0 < length <= size - 8:
        raise ValueError(f"its header should have {length} bytes, the file has {size}")
    if length > len(raw) - 8:
        raw += file.read(8 + length - len(raw))
    table: Mapping[str, Any] = json.loads(raw[8 : 8 + length])
    entries = {
        name: _Entry(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
        for name, entry in table.items()
        if name != "__metadata__"
    }
    return entries, 8 + length


def _damaged(path: Location, error: object) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or cut short: {error}; copy it again")
