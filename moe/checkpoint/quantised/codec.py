"""A matrix in few bits: what its files hold in its place, and the numbers that they stand for.

Integers are symmetric, as compressed-tensors computes them, and packed into 32-bit words with an
offset, the first in the lowest bits::

    s = max|W| / (2^bits - 1) * 2         q = round(W / s), clamped to [-2^(bits-1), 2^(bits-1) - 1]

e4m3 has 448 as its largest number: s = max|W| / 448, q = e4m3(W / s). W is read back as q s.

Shapes: N outputs, K inputs, P packed words of an output, G groups or blocks.
"""

import torch
from torch import Tensor

from moe.checkpoint.writer import TensorSpec
from moe.config.quantised import Quantised

E4M3 = torch.float8_e4m3fn
E4M3_MOST = 448.0
_WORD = 32
_LEAST = torch.finfo(torch.float32).tiny * 2.0**10

PACKED, SCALE, SHAPE, INVERSE = "weight_packed", "weight_scale", "weight_shape", "weight_scale_inv"


def stored_specs(form: Quantised, stem: str, shape: tuple[int, ...]) -> tuple[TensorSpec, ...]:
    """Return what the files hold of the matrix ``stem.weight``."""
    outputs, inputs = shape
    scales = form.scales(outputs, inputs)
    if form.kind == "int":
        words = -(-inputs * form.bits // _WORD)
        return (
            TensorSpec(f"{stem}.{SHAPE}", (2,), torch.int64),
            TensorSpec(f"{stem}.{PACKED}", (outputs, words), torch.int32),
            TensorSpec(f"{stem}.{SCALE}", scales, torch.float32),
        )
    scale = SCALE if form.block is None else INVERSE
    return (
        TensorSpec(f"{stem}.{scale}", scales, torch.float32),
        TensorSpec(f"{stem}.weight", (outputs, inputs), E4M3),
    )


def scales_of(form: Quantised, weight_NK: Tensor) -> Tensor:
    """Return the scales with which a matrix is quantised, in the shape in which they are stored."""
    size = weight_NK.float().abs()
    outputs, inputs = size.shape
    if form.kind == "int":
        grouped = size.view(outputs, form.scales(outputs, inputs)[1], -1)
        return grouped.amax(dim=2).div((2**form.bits - 1) / 2).clamp(min=_LEAST)
    if form.block is None:
        return size.max().div(E4M3_MOST).clamp(min=_LEAST).view(1)
    down, across = form.block
    size = torch.nn.functional.pad(size, (0, -inputs % across, 0, -outputs % down))
    blocks = size.view(-(-outputs // down), down, -(-inputs // across), across)
    return blocks.amax(dim=(1, 3)).div(E4M3_MOST).clamp(min=_LEAST)


def quantised(form: Quantised, weight_NK: Tensor, scales: Tensor) -> Tensor:
    """Return the numbers q of a matrix, int8 or e4m3, [N, K]."""
    ratio_NK = weight_NK.float() / spread_scales(form, scales, weight_NK.shape)
    if form.kind == "int":
        most = 2 ** (form.bits - 1)
        return ratio_NK.round().clamp_(-most, most - 1).to(torch.int8)
    return ratio_NK.clamp_(-E4M3_MOST, E4M3_MOST).to(E4M3)


def spread_scales(
    form: Quantised, scales: Tensor, shape: tuple[int, ...], first_row: int = 0
) -> Tensor:
    """Return the scale of each number of some rows of a matrix, in a shape that broadcasts.

    ``scales`` of integers are those of these rows; of blocks, those of the whole matrix.
    """
    scales = scales.float()
    if form.kind == "int":
        return scales.repeat_interleave(shape[1] // scales.shape[1], dim=1)
    if form.block is None:
        return scales.view(())
    down, across = form.block
    rows = torch.arange(first_row, first_row + shape[0]) // down
    return scales[rows].repeat_interleave(across, dim=1)[:, : shape[1]]


def packed(values_NK: Tensor, bits: int) -> Tensor:
    """Pack int8 numbers of 4 or 8 bits into words, [N, P] of int32."""
    per_word = _WORD // bits
    raised = values_NK.to(torch.int64) + 2 ** (bits - 1)
    raised = torch.nn.functional.pad(raised, (0, -values_NK.shape[1] % per_word))
    grouped = raised.view(len(raised), -1, per_word)
    shifts = torch.arange(0, _WORD, bits)
    return (grouped << shifts).sum(dim=2).to(torch.int32)


def unpacked(words_NP: Tensor, bits: int, inputs: int) -> Tensor:
    """Return the int8 numbers of packed words, [N, K]."""
    shifts = torch.arange(0, _WORD, bits, dtype=torch.int32)
    raised = (words_NP[:, :, None] >> shifts) & (2**bits - 1)
    numbers_NK: Tensor = raised.flatten(1)[:, :inputs] - 2 ** (bits - 1)
    return numbers_NK.to(torch.int8)
