"""The tensors of a smaller model out of those of the larger, a block of rows at a time.

Shapes: N experts before, R after.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.role import Role
from moe.config.tensors import TensorSlice, tensors
from moe.surgery.blocks import BLOCK_ELEMENTS, spans
from moe.surgery.lineage import finite
from moe.surgery.output import Values
from moe.surgery.shrink.fold import Fold

Folds = Mapping[int, tuple[Fold, ...]]
"""The experts of each layer that changes."""

_ROWS = ("router", "balance_bias")
"""Parts that have one row for each expert."""


@dataclass(frozen=True, slots=True)
class Smaller:
    """The tensors of a model whose experts are folds of those of a source."""

    source: Checkpoint
    config: ModelConfig
    folds: Folds

    def __iter__(self) -> Iterator[tuple[TensorSlice, torch.dtype]]:
        """Yield every tensor and its dtype, that of its source; wide dtypes first, as in a file."""
        found = [(tensor, self._dtype(tensor)) for tensor in tensors(self.config)]
        yield from sorted(found, key=lambda pair: -pair[1].itemsize)

    def values(self, tensor: TensorSlice) -> Values:
        """Return the blocks of a tensor; CheckpointError if its source is not finite."""
        layer = tensor.role.layer
        folds = None if layer is None else self.folds.get(layer)
        if folds is not None and tensor.role.expert is not None:
            return self._expert(tensor.role, folds[tensor.role.expert])
        mapped = finite(self.source, self._parent(tensor.role))
        if folds is not None and tensor.role.part in _ROWS:
            return Values([_mixed_rows(mapped, folds)])
        return _blocks(mapped)

    def _expert(self, role: Role, fold: Fold) -> Values:
        parents = [self._parent(replace(role, expert=number)) for number in fold.experts]
        mapped = [finite(self.source, parent) for parent in parents]
        return _blocks(mapped[0]) if fold.kept else Values(_mixed(mapped, fold.shares))

    def _parent(self, role: Role) -> TensorSlice:
        return by_role(self.source.config)[role]

    def _dtype(self, tensor: TensorSlice) -> torch.dtype:
        layer, role = tensor.role.layer, tensor.role
        if layer is not None and layer in self.folds and role.expert is not None:
            role = replace(role, expert=self.folds[layer][role.expert].experts[0])
        return self.source.dtype_of(self._parent(role))


@lru_cache(maxsize=2)
def by_role(config: ModelConfig) -> Mapping[Role, TensorSlice]:
    """Return the tensors of a model by their roles."""
    return {tensor.role: tensor for tensor in tensors(config)}


def _blocks(mapped: Tensor) -> Values:
    return Values((mapped[start:stop] for start, stop in spans(mapped)), mapped=True)


def _mixed(weights: list[Tensor], shares: tuple[float, ...]) -> Iterator[Tensor]:
    """Yield the blocks of a sum of weights, each times its share, in the dtype of the first."""
    for start, stop in spans(weights[0], BLOCK_ELEMENTS // len(weights)):
        total = torch.zeros(stop - start, *weights[0].shape[1:], dtype=torch.float64)
        for weight, share in zip(weights, shares, strict=True):
            total += share * weight[start:stop].double()
        yield total.to(weights[0].dtype)


def _mixed_rows(rows_N: Tensor, folds: tuple[Fold, ...]) -> Tensor:
    """Return the rows of new experts: those of their old ones, each times its share."""
    mixed = [
        sum(share * rows_N[number].double() for number, share in zip(*fold, strict=True))
        for fold in folds
    ]
    return torch.stack([torch.as_tensor(row) for row in mixed]).to(rows_N.dtype)
