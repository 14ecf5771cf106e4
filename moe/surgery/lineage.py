"""Which tensors of the new model come from which tensor of the dense model."""

from dataclasses import dataclass

import torch

from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.role import Role
from moe.config.tensors import TensorSlice, tensors
from moe.errors import CheckpointError
from moe.surgery.blocks import spans


@dataclass(frozen=True, slots=True)
class Lineage:
    """A dense tensor and the new tensors made from it; ``parent`` is None for tensors without
    source.
    """

    parent: TensorSlice | None
    children: tuple[TensorSlice, ...]
    dtype: torch.dtype


def lineages(dense: Checkpoint, config: ModelConfig) -> list[Lineage]:
    """Return every tensor of the new model, grouped by parent, so that each parent is read once.

    A child has the dtype of its parent, so nothing is rounded. Wide dtypes come first, as in the
    file.
    """
    found: dict[Role, list[TensorSlice]] = {}
    for tensor in tensors(config):
        found.setdefault(tensor.role.dense or tensor.role, []).append(tensor)
    table = {tensor.role: tensor for tensor in tensors(dense.config)}
    made = (_lineage(dense, table.get(role), tuple(kin)) for role, kin in found.items())
    return sorted(made, key=lambda lineage: -lineage.dtype.itemsize)


def finite(dense: Checkpoint, tensor: TensorSlice) -> torch.Tensor:
    """Map a tensor of the source; CheckpointError if it holds NaN or infinity."""
    value = dense.read(tensor)
    for start, stop in spans(value):
        if not _all_finite(value[start:stop]):
            raise CheckpointError(
                f"{tensor.name} in {dense.path} holds NaN or infinity, which every expert would "
                "inherit; give a model whose weights are finite"
            )
    return value


def _all_finite(block: torch.Tensor) -> bool:
    """Check each element only if the sum is not finite."""
    return bool(block.sum(dtype=torch.float32).isfinite() or block.isfinite().all())


def _lineage(
    dense: Checkpoint, parent: TensorSlice | None, kin: tuple[TensorSlice, ...]
) -> Lineage:
    return Lineage(parent, kin, dense.dtype if parent is None else dense.dtype_of(parent))
