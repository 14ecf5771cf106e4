"""Which tensors of the new model come from which tensor of the dense one."""

from dataclasses import dataclass

import torch

from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.tensors import TensorSlice, tensors
from moe.errors import CheckpointError
from moe.surgery.blocks import spans
from moe.surgery.routers import is_new


@dataclass(frozen=True, slots=True)
class Litter:
    """A dense tensor and its children; ``parent`` None where they are new."""

    parent: TensorSlice | None
    children: tuple[TensorSlice, ...]
    dtype: torch.dtype


def litters(dense: Checkpoint, config: ModelConfig) -> list[Litter]:
    """Return every tensor of the new model beside its siblings: so each parent is read once.

    The type of a child is that of its parent, so nothing is rounded. Wide types come first, as in
    the file.
    """
    found: dict[str, list[TensorSlice]] = {}
    for tensor in tensors(config):
        found.setdefault(parent_name(tensor.name), []).append(tensor)
    table = {tensor.name: tensor for tensor in tensors(dense.config)}
    made = (_litter(dense, table.get(name), tuple(kin)) for name, kin in found.items())
    return sorted(made, key=lambda litter: -litter.dtype.itemsize)


def parent_name(name: str) -> str:
    """Return the name of the dense tensor that a tensor is cut from; new ones have their own."""
    if is_new(name):
        return name
    for kind, skipped in ((".mlp.experts.", 1), (".mlp.shared.", 0)):
        head, found, tail = name.partition(kind)
        if found:
            return f"{head}.mlp.{tail.split('.', skipped)[skipped]}"
    return name


def layer_of(name: str) -> int:
    """Return the number of the layer that a tensor belongs to."""
    return int(name.split(".")[2])


def finite(dense: Checkpoint, tensor: TensorSlice) -> torch.Tensor:
    """Map a tensor of the source; CheckpointError where it is not all numbers."""
    value = dense.read(tensor)
    for start, stop in spans(value):
        if not _all_finite(value[start:stop]):
            raise CheckpointError(
                f"{tensor.name} in {dense.path} holds NaN or infinity, which every expert would "
                "inherit; give a model whose weights are finite"
            )
    return value


def _all_finite(block: torch.Tensor) -> bool:
    """Look closely only where the sum is not a number, or too large for one."""
    return bool(block.sum(dtype=torch.float32).isfinite() or block.isfinite().all())


def _litter(dense: Checkpoint, parent: TensorSlice | None, kin: tuple[TensorSlice, ...]) -> Litter:
    return Litter(parent, kin, dense.dtype if parent is None else dense.dtype_of(parent))
