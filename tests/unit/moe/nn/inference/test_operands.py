"""Weights of every kind: how near the product is, and what it does not depend on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe.config.answering import WeightKind
from moe.errors import ConfigError
from moe.nn.inference.operands import Prepared, check_kind, move_together, pack

KINDS: list[WeightKind] = ["fp32", "fp16", "int8"]
NEAR = {"fp32": 1e-6, "fp16": 1e-3, "int8": 2e-2}
"""Of the largest number of a result."""


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_several_matrices_are_multiplied_as_one(kind: WeightKind, rows: int) -> None:
    matrices = [drawn(40, 24, seed=1), drawn(16, 24, seed=2) * 30]
    operand, x = pack(kind, matrices), drawn(rows, 24, seed=3) * torch.tensor(100.0)
    found = operand.product(operand.prepared(x))
    expected = torch.cat([x @ each.T for each in matrices], dim=1)
    for part in (slice(0, 40), slice(40, 56)):
        off = (found[:, part] - expected[:, part]).abs().max()
        assert off <= NEAR[kind] * expected[:, part].abs().max()
    assert found.shape == expected.shape


@given(st.integers(2, 40), st.integers(0, 9), st.floats(0.01, 1e4))
@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_a_row_does_not_depend_on_the_rows_beside_it(
    kind: WeightKind, rows: int, seed: int, loud: float
) -> None:
    """To the bit: other rows may be larger, and come in any number."""
    operand, x = pack(kind, [drawn(48, 32, seed=seed)]), drawn(rows, 32, seed=seed + 1)
    x[1:] *= loud
    together = operand.product(operand.prepared(x))
    alone = operand.product(operand.prepared(x[:1]))
    assert torch.equal(together[:1], alone)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_zeros_gives_zeros(kind: WeightKind) -> None:
    operand = pack(kind, [drawn(8, 16)])
    assert not operand.product(operand.prepared(torch.zeros(3, 16))).any()


@pytest.mark.parametrize("kind", KINDS)
def test_parts_and_chosen_rows_keep_their_scales(kind: WeightKind) -> None:
    operand = pack(kind, [drawn(8, 16)])
    rows = operand.prepared(drawn(6, 16, seed=4) * torch.arange(1, 7)[:, None])
    whole = operand.product(rows)
    assert torch.equal(operand.product(rows.part(2, 4)), whole[2:4])
    assert torch.equal(operand.product(rows.take(torch.tensor([5, 0]))), whole[[5, 0]])
    assert isinstance(rows, Prepared)


def test_matrices_that_are_moved_together_are_one_view() -> None:
    parameters = [torch.nn.Parameter(drawn(4, 6, seed=n)) for n in range(3)]
    before = [each.detach().clone() for each in parameters]
    move_together(parameters)
    operand = pack("fp32", parameters)
    assert operand.bytes == 0
    for one, other in zip(parameters, before, strict=True):
        assert torch.equal(one, other)
    with torch.no_grad():
        parameters[1].mul_(2)
    x = drawn(2, 6)
    found = operand.product(operand.prepared(x))
    assert torch.allclose(found[:, 4:8], 2 * (x @ before[1].T))


def test_bytes_are_those_of_the_packed_weights() -> None:
    matrices = [drawn(64, 32)]
    assert pack("fp16", matrices).bytes == 64 * 32 * 2
    assert pack("int8", matrices).bytes == 64 * 32 + 64 * 4


def test_a_device_without_packed_products_is_refused() -> None:
    with pytest.raises(ConfigError, match="int8 weights are for CPUs; a cuda answers with fp32"):
        check_kind("int8", torch.device("cuda"))
    with pytest.raises(ConfigError, match="weights are 'int3'; choose one of fp32, fp16, int8"):
        check_kind("int3", torch.device("cpu"))  # type: ignore[arg-type]
