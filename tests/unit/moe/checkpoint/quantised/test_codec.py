"""Matrices in few bits against compressed-tensors, the library whose format it is."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import (
    pack_to_int32,
    unpack_from_int32,
)
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from compressed_tensors.quantization.utils import calculate_qparams
from hypothesis import given
from hypothesis import strategies as st

from moe.checkpoint.quantised.codec import (
    packed,
    quantised,
    scales_of,
    spread_scales,
    unpacked,
)
from moe.config.quantised import FORMS, Quantised

INT4 = Quantised("int", 4, group=32)
CHANNEL4 = Quantised("int", 4)


def matrix(outputs: int, inputs: int, seed: int = 0) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=source)
    return weight * torch.rand(outputs, 1, generator=source)


@given(st.integers(1, 5), st.integers(1, 70), st.sampled_from([4, 8]), st.integers(0, 99))
def test_words_are_packed_as_the_library_packs_them(
    outputs: int, inputs: int, bits: int, seed: int
) -> None:
    source, most = torch.Generator().manual_seed(seed), 2 ** (bits - 1)
    values = torch.randint(-most, most, (outputs, inputs), generator=source, dtype=torch.int8)
    words = packed(values, bits)
    assert torch.equal(words, pack_to_int32(values, bits))
    assert torch.equal(unpacked(words, bits, inputs), values)
    theirs = unpack_from_int32(words, bits, torch.Size((outputs, inputs)))
    assert torch.equal(unpacked(words, bits, inputs), theirs)


@pytest.mark.parametrize("form", [FORMS["int8"], CHANNEL4, INT4], ids=["int8", "int4", "groups"])
def test_integers_are_those_of_the_library(form: Quantised) -> None:
    weight = matrix(24, 96)
    strategy = "channel" if form.group is None else "group"
    args = QuantizationArgs(
        num_bits=form.bits, type="int", strategy=strategy, symmetric=True, group_size=form.group
    )
    grouped = weight if form.group is None else weight.view(24, -1, form.group)
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    theirs, zero = calculate_qparams(low.flatten(1), high.flatten(1), args)
    scales = scales_of(form, weight)
    torch.testing.assert_close(scales, theirs)
    numbers = quantize(weight, theirs, zero, args, dtype=torch.int8)
    assert torch.equal(quantised(form, weight, theirs), numbers)
    read = quantised(form, weight, scales).float() * spread_scales(form, scales, weight.shape)
    torch.testing.assert_close(read, dequantize(numbers, theirs, zero, args))


@pytest.mark.parametrize("shape", [(128, 256), (130, 300), (5, 7)])
def test_blocks_are_scaled_as_transformers_scales_them(shape: tuple[int, int]) -> None:
    """Its quantiser takes only whole blocks; what is left over is a block of its own."""
    from transformers.integrations.finegrained_fp8 import Fp8Quantize, _dequantize_fp8_weight

    form, weight = FORMS["fp8-blocks"], matrix(*shape)
    scales = scales_of(form, weight)
    values = quantised(form, weight, scales)
    read = values.float() * spread_scales(form, scales, weight.shape)
    theirs = _dequantize_fp8_weight(values, scales, [128, 128], torch.float32)
    torch.testing.assert_close(read, theirs)
    if shape == (128, 256):
        config: Any = SimpleNamespace(weight_block_size=[128, 128], scale_fmt="float")
        made = Fp8Quantize(SimpleNamespace(quantization_config=config)).convert(
            {"w.weight": weight}
        )
        torch.testing.assert_close(scales, made["w.weight_scale_inv"])
        assert torch.equal(values.view(torch.uint8), made["w.weight"].view(torch.uint8))


@pytest.mark.parametrize("form", [*FORMS.values(), INT4], ids=lambda form: str(form))
@pytest.mark.parametrize("fill", [0.0, 1e-38, 3e4])
def test_zeros_and_extremes_survive(form: Quantised, fill: float) -> None:
    weight = torch.full((6, 128), fill)
    scales = scales_of(form, weight)
    read = quantised(form, weight, scales).float() * spread_scales(form, scales, weight.shape)
    assert read.isfinite().all()
    torch.testing.assert_close(read, weight, rtol=0.2, atol=1e-30)


@pytest.mark.parametrize(
    ("form", "most"), [("int8", 0.008), ("int4", 0.13), ("fp8", 0.035), ("fp8-blocks", 0.03)]
)
def test_the_error_is_that_of_the_bits(form: str, most: float) -> None:
    weight = matrix(256, 256)
    kind = FORMS[form]
    scales = scales_of(kind, weight)
    read = quantised(kind, weight, scales).float() * spread_scales(kind, scales, weight.shape)
    error = ((read - weight).norm() / weight.norm()).item()
    assert most / 3 < error < most
