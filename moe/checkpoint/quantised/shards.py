"""The files of a quantised directory, read as if it were not: by name and slice, dequantised.

This is the only place where a reader meets few bits: whatever opens a checkpoint reads quantised
directories too. A matrix is dequantised when it is asked for, row by row, in the dtype of the
tensors that are not quantised.

Of e4m3 with a scale for each tensor, queries, keys and values are rounded again to their largest
scale, as the loader of Skywork-MoE does, which holds the three as one matrix; gate and up of an
expert, which it also holds as one, must have one scale.

Shapes: N outputs, K inputs.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from moe.checkpoint.boxes import Box
from moe.checkpoint.quantised.codec import (
    E4M3,
    INVERSE,
    PACKED,
    SCALE,
    SHAPE,
    quantised,
    spread_scales,
    unpacked,
)
from moe.checkpoint.shards import Shards
from moe.config.quantised import Quantised
from moe.errors import CheckpointError
from moe.storage import Location

_STORED = re.compile(rf"(.*)\.({PACKED}|{SCALE}|{SHAPE}|{INVERSE})")
_ATTENTION = re.compile(r"(.*\.self_attn\.)[qkv](_proj\.)")
_EXPERT = re.compile(r"(.*\.experts\.\d+\.)(w1|gate_proj)\.")
_TWINS = {"w1": "w3", "gate_proj": "up_proj"}
"""Gate and up of an expert, by their names in files."""


class QuantisedShards(Shards):
    """The files of a directory in one form; ``dtype`` is that of the numbers that are read."""

    def __init__(
        self, files: Mapping[str, Location], form: Quantised, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(files)
        self._form = form
        self._dtype = dtype or torch.float32
        stems = {found[1] for name in files if (found := _STORED.fullmatch(name))}
        self._stems = frozenset(stems)
        self._names = frozenset(
            {name for name in files if not _STORED.fullmatch(name)}
            | {f"{stem}.weight" for stem in stems}
        )
        if form.kind == "fp8" and form.block is None:
            self._check_twins()

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors, as if nothing were quantised."""
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        stem = self._stem(name)
        if stem is None or self._form.kind == "fp8":
            return super().shape(name)
        outputs, inputs = (int(size) for size in super().read(f"{stem}.{SHAPE}"))
        words = -(-inputs * self._form.bits // 32)
        if super().shape(f"{stem}.{PACKED}") != (outputs, words):
            raise CheckpointError(
                f"{stem}.{PACKED} has shape {super().shape(f'{stem}.{PACKED}')}, but {SHAPE} says "
                f"{outputs} x {inputs}, which takes {outputs} x {words} words of "
                f"{32 // self._form.bits}; copy the directory again"
            )
        return outputs, inputs

    def dtype(self, name: str) -> torch.dtype:
        """Return the type in which a tensor is read."""
        stem = self._stem(name)
        if stem is None:
            return super().dtype(name)
        self._check_scales(stem)
        return self._dtype

    def read(self, name: str, box: Box | None = None) -> Tensor:
        """Return a matrix, or a box of it, dequantised; other tensors as they are."""
        stem = self._stem(name)
        if stem is None:
            return super().read(name, box)
        rows, columns = box or tuple((0, size) for size in self.shape(name))
        return self._rows(stem, *rows)[:, slice(*columns)].to(self._dtype)

    def _stem(self, name: str) -> str | None:
        stem = name.removesuffix(".weight")
        return stem if stem != name and stem in self._stems else None

    def _rows(self, stem: str, start: int, stop: int) -> Tensor:
        """Return rows of a matrix in float32."""
        form, inputs = self._form, self.shape(f"{stem}.weight")[1]
        if form.kind == "int":
            words = self._raw(f"{stem}.{PACKED}", start, stop)
            values = unpacked(words, form.bits, inputs).float()
            scales = self._raw(f"{stem}.{SCALE}", start, stop)
        else:
            values = self._raw(f"{stem}.weight", start, stop).float()
            scales = super().read(self._scale_name(stem))
        _check_positive(stem, scales)
        found = values * spread_scales(form, scales, (stop - start, inputs), start)
        return self._as_one_matrix(stem, found, scales)

    def _raw(self, name: str, start: int, stop: int) -> Tensor:
        return super().read(name, ((start, stop), (0, super().shape(name)[1])))

    def _scale_name(self, stem: str) -> str:
        return f"{stem}.{SCALE if self._form.block is None else INVERSE}"

    def _as_one_matrix(self, stem: str, values: Tensor, scale: Tensor) -> Tensor:
        """Round queries, keys and values to the largest of their scales."""
        attention = _ATTENTION.fullmatch(f"{stem}.")
        if attention is None or self._form.kind != "fp8" or self._form.block is not None:
            return values
        names = [self._scale_name(f"{attention[1]}{part}{attention[2]}"[:-1]) for part in "qkv"]
        scales = [super(QuantisedShards, self).read(name).float().view(1) for name in names]
        common = torch.stack(scales).amax(dim=0)
        if torch.equal(common, scale.float().view(1)):
            return values
        return quantised(self._form, values, common).float() * common

    def _check_scales(self, stem: str) -> None:
        """Raise CheckpointError unless the scales of a matrix have their shape and its numbers
        their type.
        """
        form, shape = self._form, self.shape(f"{stem}.weight")
        name = self._scale_name(stem) if form.kind == "fp8" else f"{stem}.{SCALE}"
        if name not in self._files:
            raise CheckpointError(
                f"{stem} is stored without {name}, which config.json asks for; copy the directory "
                "again, or correct quantization_config"
            )
        if form.kind == "fp8" and self._file(f"{stem}.weight").dtype(f"{stem}.weight") != "F8_E4M3":
            raise CheckpointError(
                f"{stem}.weight is not {E4M3}, but {name} scales it; copy the directory again, or "
                "correct quantization_config"
            )
        wanted, found = form.scales(shape[0], shape[1]), super().shape(name)
        scalar = wanted == (1,) and found in ((), (1,))
        if form.group is not None and shape[1] % form.group:
            wanted = (shape[0], -1)
        if found != wanted and not scalar:
            raise CheckpointError(
                f"{name} has shape {found}; a matrix of {shape[0]} x {shape[1]} in {form.name} has "
                f"scales of shape {wanted}: copy the directory again, or correct "
                "quantization_config"
            )

    def _check_twins(self) -> None:
        """Raise CheckpointError if gate and up of an expert have two scales."""
        for stem in sorted(self._stems):
            expert = _EXPERT.fullmatch(f"{stem}.")
            if expert is None:
                continue
            other = f"{expert[1]}{_TWINS[expert[2]]}"
            names = [self._scale_name(one) for one in (stem, other)]
            if any(name not in self._files for name in names):
                continue
            one, two = (super(QuantisedShards, self).read(name).float().item() for name in names)
            if one != two:
                raise CheckpointError(
                    f"{names[0]} is {one:g} and {names[1]} is {two:g}; gate and up of an "
                    "expert are loaded as one matrix: quantise them with one scale"
                )


def _check_positive(stem: str, scales: Tensor) -> None:
    found = scales.float()
    if not bool((found.isfinite() & (found > 0)).all()):
        wrong = found[~(found.isfinite() & (found > 0))].flatten()[0].item()
        raise CheckpointError(
            f"a scale of {stem} is {wrong:g}; scales are finite and above 0: the directory is "
            "damaged, copy it again"
        )
