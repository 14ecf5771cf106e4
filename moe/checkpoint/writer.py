"""Writes safetensors files tensor by tensor, so memory holds one tensor and not a shard.

The format is a length, a JSON header with the position of every tensor, then the bytes. The header
is written first, from names, dtypes and shapes; tensors follow in any order.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from moe.checkpoint.digest import raw_bytes
from moe.checkpoint.shard_files import TYPES
from moe.errors import CheckpointError
from moe.storage import Location, copy_file, sync, write_text

SHARD_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and dtype of a tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Size in the file, in bytes."""
        return prod(self.shape) * self.dtype.itemsize


class ShardWriter:
    """One safetensors file; a context manager that raises if a tensor was never written."""

    def __init__(self, path: Path, specs: Iterable[TensorSpec]) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._missing = set(self._specs)
        header, self._offsets, size = layout(self._specs.values())
        self._file = path.open("wb")
        self._file.write(header)
        self._file.truncate(size)

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one tensor at its position."""
        spec = self._specs[name]
        if tuple(tensor.shape) != spec.shape:
            raise CheckpointError(
                f"{name} has shape {tuple(tensor.shape)}, the file has room for {spec.shape}"
            )
        self._file.seek(self._offsets[name])
        self._file.write(raw_bytes(tensor.to("cpu", spec.dtype)))
        self._missing.discard(name)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            sync(self._file)
        if kind is None and self._missing:
            raise CheckpointError(
                f"{self._file.name}: {len(self._missing)} tensors were never written, "
                f"the first is {min(self._missing)}"
            )


def pack(specs: Iterable[TensorSpec], limit: int = SHARD_BYTES) -> list[list[TensorSpec]]:
    """Divide tensors, in order, into shards of at most ``limit`` bytes; a larger tensor gets its
    own shard.
    """
    shards: list[list[TensorSpec]] = [[]]
    used = 0
    for spec in specs:
        if shards[-1] and used + spec.bytes > limit:
            shards.append([])
            used = 0
        shards[-1].append(spec)
        used += spec.bytes
    return shards


def write_index(directory: Location, index: str, files: Mapping[str, Iterable[TensorSpec]]) -> None:
    """Write the index with the file of every tensor."""
    pairs = [(spec, file) for file, specs in files.items() for spec in specs]
    table = {
        "metadata": {"total_size": sum(spec.bytes for spec, _ in pairs)},
        "weight_map": {spec.name: file for spec, file in sorted(pairs, key=lambda p: p[0].name)},
    }
    write_json(directory / index, table)


def write_json(path: Location, table: Any) -> None:
    """Write a value as indented JSON and wait until it is on disk; NaN and infinity are refused."""
    try:
        text = json.dumps(table, indent=2, default=str, allow_nan=False)
    except ValueError as error:
        raise CheckpointError(
            f"{path} cannot be written as JSON: {error}; give finite numbers"
        ) from error
    write_text(path, text + "\n")


def copy_tokenizer(source: Path, destination: Location) -> None:
    """Copy the files besides weights and architecture: tokenizer, chat template, licence."""
    wanted = ("tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt", "chat_template*")
    for pattern in (*wanted, "added_tokens.json", "generation_config.json", "LICENSE*"):
        for file in sorted(source.glob(pattern)):
            if file.is_file():
                copy_file(file, destination / file.name)


def in_order(specs: Iterable[TensorSpec]) -> list[TensorSpec]:
    """Return specs in file order: wide dtypes first, so that every tensor is aligned.

    The format's own library uses the same order.
    """
    return sorted(specs, key=lambda spec: -spec.dtype.itemsize)


def layout(specs: Iterable[TensorSpec]) -> tuple[bytes, dict[str, int], int]:
    """Return the header, the offset of each tensor, and the size of the file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for spec in in_order(specs):
        if spec.dtype not in TYPES:
            raise CheckpointError(
                f"{spec.name} is {spec.dtype}; raymoe writes {', '.join(TYPES.values())}"
            )
        place = [end, end + spec.bytes]
        header[spec.name] = {
            "dtype": TYPES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": place,
        }
        end += spec.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    del header["__metadata__"]
    starts = {name: start + entry["data_offsets"][0] for name, entry in header.items()}
    return len(text).to_bytes(8, "little") + text, starts, start + end
