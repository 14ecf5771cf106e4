"""A safetensors file written sequentially, and hashed while written, to any storage."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from moe.checkpoint.digest import raw_bytes
from moe.checkpoint.writer import TensorSpec, in_order, layout
from moe.errors import CheckpointError
from moe.storage import Location, writing


class StreamedShard:
    """Writes the tensors of one file in file order, the order of ``in_order``."""

    def __init__(self, path: Location, specs: Iterable[TensorSpec], write: Callable[[Any], object]):
        self._path = path
        self._left = in_order(specs)[::-1]
        header, starts, _ = layout(self._left[::-1])
        if len(starts) < len(self._left):
            raise CheckpointError(f"{path} would hold a tensor twice; names in a file must differ")
        self._write = write
        write(header)

    def write(self, name: str, tensor: Tensor) -> str:
        """Append a tensor; return the hash of its bytes."""
        spec = self._left.pop()
        if (name, tuple(tensor.shape), tensor.dtype) != (spec.name, spec.shape, spec.dtype):
            raise CheckpointError(
                f"{self._path} has room for {spec.name}, {spec.shape} of {spec.dtype}; got "
                f"{name}, {tuple(tensor.shape)} of {tensor.dtype}"
            )
        raw = raw_bytes(tensor)
        self._write(raw)
        return hashlib.sha256(raw).hexdigest()

    def close(self) -> None:
        """Check that nothing is left to write."""
        if self._left:
            raise CheckpointError(
                f"{self._path}: {len(self._left)} tensors were never written, the first is "
                f"{self._left[-1].name}"
            )


@contextmanager
def streamed(path: Location, specs: Iterable[TensorSpec]) -> Iterator[StreamedShard]:
    """Yield a file that is stored durably when the block succeeds."""
    with writing(path) as write:
        shard = StreamedShard(path, specs, write)
        yield shard
        shard.close()
