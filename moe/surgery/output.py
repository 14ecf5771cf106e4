"""Writes safetensors files sequentially, a block of rows at a time, and hashes them meanwhile."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.remote import copy_remote_code
from moe.checkpoint.weight_files import INDEX
from moe.checkpoint.writer import (
    ShardWriter,
    TensorSpec,
    copy_tokenizer,
    pack,
    write_index,
    write_json,
)
from moe.config.families import write_config
from moe.config.model import ModelConfig
from moe.errors import CheckpointError
from moe.storage import local

Progress = Callable[[int, int], None]
_AHEAD = 3
"""Number of blocks in memory that may wait to be hashed."""


class Values(NamedTuple):
    """The blocks of rows of a tensor; ``mapped`` if they are in a file and not in memory."""

    blocks: Iterable[Tensor]
    mapped: bool = False


class HashedWriter(ShardWriter):
    """A shard whose tensors arrive in file order; a second thread hashes the written bytes.

    Hashing the file afterwards would read it again, which costs as much as a copy. Hashing is
    slower than writing: only a few blocks in memory may wait for it, but any number of mapped
    blocks.
    """

    def __init__(self, path: Path, specs: Iterable[TensorSpec]) -> None:
        super().__init__(path, specs)
        self._file.flush()
        with path.open("rb") as file:
            self._sha = hashlib.sha256(file.read(min(self._offsets.values())))
        self._place = min(self._offsets.values())
        self._thread, self._disk = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._hashing: deque[Future[None]] = deque()

    def __enter__(self) -> "HashedWriter":
        return self

    def append(self, name: str, values: Values) -> None:
        """Write the blocks of rows of the next tensor."""
        spec, begin = self._specs[name], self._place
        if self._offsets[name] != begin:
            raise RuntimeError(f"{name} is not the next tensor of {self._file.name}")
        self._file.seek(begin)
        for block in values.blocks:
            self._write(block.contiguous().view(-1).view(torch.uint8), values.mapped)
        if self._place - begin != spec.bytes:
            raise CheckpointError(
                f"{name} came with {self._place - begin} bytes, the file has room for {spec.bytes}"
            )
        self._missing.discard(name)

    def finish(self) -> Future[str]:
        """Make the file readable; one thread waits for the disk, the other hashes the rest."""
        self._file.flush()
        synced = self._disk.submit(os.fsync, self._file.fileno())
        return self._thread.submit(self._close, synced)

    def _close(self, synced: Future[None]) -> str:
        synced.result()
        super().__exit__(None, None, None)
        return self._sha.hexdigest()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave a complete file to the second thread; close a failed file."""
        failed = kind is not None
        self._thread.shutdown(wait=failed, cancel_futures=failed)
        self._disk.shutdown(wait=failed)
        if failed:
            super().__exit__(kind, error, trace)

    def _write(self, raw: Tensor, mapped: bool) -> None:
        data = raw.numpy().data
        if not mapped and len(self._hashing) == _AHEAD:
            self._hashing.popleft().result()
        hashing = self._thread.submit(self._sha.update, data)
        if not mapped:
            self._hashing.append(hashing)
        self._file.write(data)
        self._place += data.nbytes


def write_small_files(
    directory: Path,
    source: Checkpoint,
    config: ModelConfig,
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Write what a model made from ``source`` has besides weights: its configuration, with keys
    ``beside`` it, the tokenizer of the source, and code where the family needs it.
    """
    dtype = str(source.dtype).removeprefix("torch.")
    write_json(directory / "config.json", write_config(config, dtype) | dict(beside or {}))
    copy_tokenizer(local(source.path), directory)
    copy_remote_code(config.family, directory)


def write_model(
    directory: Path,
    specs: Iterable[TensorSpec],
    values: Iterator[Values],
    progress: Progress,
) -> dict[str, Future[str]]:
    """Write the index, then tensors in order; return a future of the SHA-256 of each shard.

    ``values`` yields the blocks of each tensor in order. A shard is on disk when its hash is ready;
    it can be read before. Small files and the index come before the shards: a small file that is
    synced after them waits until their gigabytes are on the disk.
    """
    shards = pack(specs)
    files = {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }
    write_index(directory, INDEX, files)
    done, total = 0, sum(spec.bytes for shard in shards for spec in shard)
    found = {}
    for file, shard in files.items():
        with HashedWriter(directory / file, shard) as writer:
            for spec in shard:
                writer.append(spec.name, next(values))
                done += spec.bytes
                progress(done, total)
            found[file] = writer.finish()
    return found
