"""Which tensors of the new model come from which tensor of the dense one."""

from dataclasses import dataclass

import torch

from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.role import Role
from moe.config.tensors import TensorSlice, tensors
from moe.errors import CheckpointError
from moe.surgery.blocks import spans


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
    found: dict[Role, list[TensorSlice]] = {}
    for tensor in tensors(config):
        found.setdefault(tensor.role.dense or tensor.role, []).append(tensor)
    table = {tensor.role: tensor for tensor in tensors(dense.config)}
    made = (_litter(dense, table.get(role), tuple(kin)) for role, kin in found.items())
    return sorted(made, key=lambda litter: -litter.dtype.itemsize)


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
