"""What the files of a smaller model hold: its tensors as they are, or matrices in few bits.

A matrix in few bits is several stored tensors, and a file holds wide types first; so a matrix may
be made twice, once for its scales and once for its numbers, and is never kept. Matrices that a
loader holds as one share a scale in ``fp8``: queries, keys and values of a layer, gate and up of a
feed-forward.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from moe.checkpoint.names import disk_name
from moe.checkpoint.quantised.codec import (
    PACKED,
    SHAPE,
    packed,
    quantised,
    scales_of,
    stored_specs,
)
from moe.checkpoint.writer import TensorSpec
from moe.config.quantised import Quantised, quantises
from moe.config.role import ModelPart, Role
from moe.config.tensors import TensorSlice
from moe.surgery.output import Values
from moe.surgery.shrink.tensors import Smaller, by_role

_TOGETHER: tuple[tuple[ModelPart, ...], ...] = (("query", "key", "value"), ("gate", "up"))


@dataclass(frozen=True, slots=True)
class Stored:
    """The files of a model in a form; ``form`` None stores every tensor as it is."""

    model: Smaller
    form: Quantised | None
    _scales: dict[Role, Tensor] = field(default_factory=dict)

    def pieces(self) -> list[tuple[TensorSpec, TensorSlice]]:
        """Return what is stored, in the order of a file, and the tensor that each belongs to."""
        found = [
            (spec, tensor) for tensor, dtype in self.model for spec in self._specs(tensor, dtype)
        ]
        return sorted(found, key=lambda piece: -piece[0].dtype.itemsize)

    def values(self, spec: TensorSpec, tensor: TensorSlice) -> Values:
        """Return the blocks of a stored tensor."""
        if self.form is None or not quantises(tensor.role):
            return self.model.values(tensor)
        part = spec.name.rpartition(".")[2]
        return Values([self._part(self.form, part, tensor).view(spec.shape)])

    def _specs(self, tensor: TensorSlice, dtype: torch.dtype) -> Iterator[TensorSpec]:
        name = disk_name(self.model.config.family, tensor.name)
        if self.form is None or not quantises(tensor.role):
            yield TensorSpec(name, tensor.shape, dtype)
        else:
            yield from stored_specs(self.form, name.removesuffix(".weight"), tensor.shape)

    def _part(self, form: Quantised, part: str, tensor: TensorSlice) -> Tensor:
        if part == SHAPE:
            return torch.tensor(tensor.shape)
        weight = self._weight(tensor)
        scales = self._scale(form, weight, tensor.role)
        if part not in (PACKED, "weight"):
            return scales
        values = quantised(form, weight, scales)
        return packed(values, form.bits) if part == PACKED else values

    def _scale(self, form: Quantised, weight: Tensor, role: Role) -> Tensor:
        """Return the scales of a matrix; in fp8, the largest of those it is loaded with."""
        kin = _kin(role)
        if form.kind != "fp8" or form.block is not None or len(kin) == 1:
            return scales_of(form, weight)
        if kin[0] not in self._scales:
            table = by_role(self.model.config)
            found = [scales_of(form, self._weight(table[each])) for each in kin]
            self._scales[kin[0]] = torch.stack(found).amax(dim=0)
        return self._scales[kin[0]]

    def _weight(self, tensor: TensorSlice) -> Tensor:
        return torch.cat(list(self.model.values(tensor).blocks))


def _kin(role: Role) -> list[Role]:
    """Return the roles of the matrices that are loaded as one with a matrix."""
    parts = next((group for group in _TOGETHER if role.part in group), (role.part,))
    return [replace(role, part=part) for part in parts]
