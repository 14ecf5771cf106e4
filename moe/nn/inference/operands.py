"""Weights as the products of a pass take them: float32 as it is, or packed in 16 or 8 bits.

A pass with few rows reads every weight once and computes little, so it takes as long as its weights
have bytes. The packed kinds multiply float32 rows by narrower weights:

    fp32  the matrix itself, by the library of ``moe.nn.product``
    fp16  rounded to 16 bits; sums in float32
    int8  rounded to 8 bits, one scale for each output; rows are rounded too, one scale for each row

A row's scale depends on that row alone, and sums of 8-bit products are exact. So with 16 and 8 bits
the result of a row does not depend on the other rows of the pass; with float32 it does in its last
digits, since the library takes other kernels for other numbers of rows.

Shapes: M rows, N outputs, K inputs.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from moe.config.answering import WeightKind
from moe.errors import ConfigError
from moe.nn.experts.stack import gathered, joined
from moe.nn.processor import multiplies_bytes_exactly
from moe.nn.product import product

_LEAST = 1e-30
"""A row of zeros is divided by this."""


class Operand(Protocol):
    """One matrix, or several above each other, by which rows can be multiplied."""

    @property
    def bytes(self) -> int:
        """Bytes of memory that the weight takes, beside what others hold anyway."""

    def prepared(self, x_MK: Tensor) -> "Prepared":
        """Return rows as the product takes them; several operands of a kind take the same."""

    def product(self, rows: "Prepared") -> Tensor:
        """Return ``x @ weight.T`` [M, N], as float32 for packed weights."""


class Prepared(NamedTuple):
    """Rows for a product; ``scale_M1`` is by what its result is to be multiplied."""

    x_MK: Tensor
    scale_M1: Tensor | None = None

    def part(self, start: int, stop: int) -> "Prepared":
        """Return some of the rows."""
        scale = None if self.scale_M1 is None else self.scale_M1[start:stop]
        return Prepared(self.x_MK[start:stop], scale)

    def take(self, rows_R: Tensor) -> "Prepared":
        """Return the rows with some numbers."""
        scale = None if self.scale_M1 is None else self.scale_M1.index_select(0, rows_R)
        return Prepared(self.x_MK.index_select(0, rows_R), scale)


class Plain:
    """Matrices as they are; views of the parameters that are trained."""

    def __init__(self, matrices: Sequence[Tensor]) -> None:
        together = joined([matrices])
        self._parts = [each.detach() for each in matrices] if together is None else [together[0]]

    @property
    def bytes(self) -> int:
        """None of its own: the parameters hold them."""
        return 0

    def prepared(self, x_MK: Tensor) -> Prepared:
        """Return the rows in the type of the weights."""
        return Prepared(x_MK.to(self._parts[0].dtype))

    def product(self, rows: Prepared) -> Tensor:
        """Return the results of all matrices side by side."""
        if len(self._parts) == 1:
            return product(rows.x_MK, self._parts[0])
        return torch.cat([product(rows.x_MK, part) for part in self._parts], dim=1)


class Half:
    """Weights in 16 bits (fbgemm)."""

    def __init__(self, matrices: Sequence[Tensor]) -> None:
        weight_NK = _above_each_other(matrices)
        self.bytes = 2 * weight_NK.numel()
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight_NK, None)

    def prepared(self, x_MK: Tensor) -> Prepared:
        """Return the rows in float32."""
        return Prepared(x_MK.float())

    def product(self, rows: Prepared) -> Tensor:
        """Multiply; sums are float32."""
        y_MN: Tensor = torch.ops.quantized.linear_dynamic_fp16(rows.x_MK, self._packed)
        return y_MN


class Int8:
    """Weights in 8 bits, a scale for each output (fbgemm).

    Rows are rounded to 8 bits; to 7 on processors that add pairs of 8-bit products in 16 bits,
    where a pair of larger ones would not fit.
    """

    def __init__(self, matrices: Sequence[Tensor]) -> None:
        weight_NK = _above_each_other(matrices)
        codes = _rounded(weight_NK)
        self.bytes = weight_NK.numel() + 4 * len(weight_NK)
        self._packed = torch.ops.quantized.linear_prepack(codes, None)
        self._steps = 127 if multiplies_bytes_exactly() else 63

    def prepared(self, x_MK: Tensor) -> Prepared:
        """Return each row divided by its largest number, and these."""
        scale_M1 = torch.linalg.vector_norm(x_MK, torch.inf, dim=1, keepdim=True).clamp_(min=_LEAST)
        return Prepared(x_MK / scale_M1, scale_M1)

    def product(self, rows: Prepared) -> Tensor:
        """Round the rows, multiply and scale."""
        steps = self._steps
        y_MN: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            rows.x_MK, 1 / steps, steps + 1, self._packed
        )
        assert rows.scale_M1 is not None
        return y_MN.mul_(rows.scale_M1)


def pack(kind: WeightKind, matrices: Sequence[Tensor]) -> Operand:
    """Return an operand of matrices that are multiplied by the same rows, one above the other."""
    return _KINDS[kind](matrices)


def move_together(matrices: Sequence[Tensor]) -> None:
    """Let matrices lie one behind the other, so that they are one operand without a copy."""
    if joined([matrices]) is None:
        gathered(matrices)


def check_kind(kind: WeightKind, device: torch.device) -> None:
    """Raise ConfigError where a device or a processor has no products of this kind."""
    if kind not in get_args(WeightKind):
        raise ConfigError(f"weights are {kind!r}; choose one of {', '.join(get_args(WeightKind))}")
    if kind == "fp32":
        return
    if device.type != "cpu":
        raise ConfigError(f"{kind} weights are for CPUs; a {device.type} answers with fp32 weights")
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        raise ConfigError(
            f"this processor has no products with {kind} weights (torch was built without fbgemm); "
            "choose fp32"
        )


def _rounded(weight_NK: Tensor) -> Tensor:
    """Return the weights in 8 bits with a scale for each output, as fbgemm takes them.

    torch says that it will drop such tensors and names nothing else that fbgemm takes; the version
    of torch is pinned.
    """
    scales_N = weight_NK.abs().amax(dim=1).clamp_(min=_LEAST).double() / 127
    zeros_N = torch.zeros(len(weight_NK), dtype=torch.long)
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return torch.quantize_per_channel(weight_NK, scales_N, zeros_N, 0, torch.qint8)


def _above_each_other(matrices: Sequence[Tensor]) -> Tensor:
    return torch.cat([each.detach().float() for each in matrices])


_KINDS: Mapping[WeightKind, Callable[[Sequence[Tensor]], Operand]] = {
    "fp32": Plain,
    "fp16": Half,
    "int8": Int8,
}
