"""Products through every library are the same numbers; the library follows from recorded rules."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.config.products import LIBRARIES, MEASURED, TORCH_ALONE, Library, Products, always
from moe.nn import openblas
from moe.nn.processor import processor
from moe.nn.product import (
    MULTIPLY,
    chosen,
    in_use,
    input_product,
    is_ruled,
    product,
    use,
    weight_product,
)
from tests.examples import examples

FAST = settings(max_examples=examples(40))
SIZES = st.integers(1, 70)
EACH_LIBRARY = pytest.mark.parametrize("library", LIBRARIES)


@pytest.fixture(autouse=True)
def rules() -> Iterator[Products]:
    before = in_use()
    yield before
    use(before)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(found, exact.float(), rtol=1e-5, atol=1e-5)


@FAST
@given(
    library=st.sampled_from(LIBRARIES),
    sizes=st.tuples(SIZES, SIZES, SIZES),
    turned=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_each_role_is_the_product_by_each_library_for_any_strides(
    library: Library, sizes: tuple[int, int, int], turned: tuple[bool, bool, bool]
) -> None:
    use(always(processor(), library))
    rows, outputs, inputs = sizes
    shapes = ((rows, inputs), (outputs, inputs), (rows, outputs))
    x, weight, y_grad = (
        random(*reversed(shape), seed=seed).t() if turn else random(*shape, seed=seed)
        for seed, (shape, turn) in enumerate(zip(shapes, turned, strict=True))
    )
    close(product(x, weight), x.double() @ weight.double().t())
    close(input_product(y_grad, weight), y_grad.double() @ weight.double())
    close(weight_product(y_grad, x), y_grad.double().t() @ x.double())
    bias = random(outputs, seed=3)
    close(product(x, weight, bias), x.double() @ weight.double().t() + bias.double())


@EACH_LIBRARY
def test_parts_and_every_second_column_of_a_matrix_are_multiplied(library: Library) -> None:
    use(always(processor(), library))
    x, wide = random(9, 12), random(7, 24, seed=1)
    for part in (wide[:, 12:], wide[:, ::2], wide[:, ::2].clone().t().contiguous().t()):
        close(product(x, part), x.double() @ part.double().t())
    one = random(1, 12).expand(9, 12)
    close(product(one, wide[:, :12]), one.double() @ wide[:, :12].double().t())


@EACH_LIBRARY
def test_large_products_are_as_exact_as_float32_allows(library: Library) -> None:
    x, weight = random(130, 576), random(300, 576, seed=1)
    exact = x.double() @ weight.double().t()
    error = (MULTIPLY[library](x, weight, None).double() - exact).abs().max() / exact.abs().max()
    assert error < 2e-6


@EACH_LIBRARY
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_every_time(library: Library, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, weight = random(133, 165), random(229, 165, seed=1)
        first = MULTIPLY[library](x, weight, None)
        assert all(torch.equal(MULTIPLY[library](x, weight, None), first) for _ in range(5))
    finally:
        torch.set_num_threads(before)


def test_rows_and_role_choose_the_library() -> None:
    rules = Products(
        processor(),
        forward=((1, "mkl"), (8, "onednn")),
        input=((1, "onednn"),),
        weight=((1, "mkl"), (9, "openblas")),
    )
    use(rules)
    weight = random(300, 576, seed=1)
    for rows in (7, 8, 9):
        x, y_grad = random(rows, 576), random(rows, 300, seed=2)
        forward = MULTIPLY[rules.library("forward", rows)](x, weight, None)
        assert torch.equal(product(x, weight), forward)
        turned = MULTIPLY[rules.library("weight", rows)](y_grad.t(), x.t(), None)
        assert torch.equal(weight_product(y_grad, x), turned)


def test_what_no_rule_is_for_goes_through_torch() -> None:
    x, weight = random(3, 5), random(4, 5, seed=1)
    assert is_ruled(x, weight)
    assert not is_ruled(x.bfloat16(), weight.bfloat16())
    assert not is_ruled(x[:0], weight)
    assert weight_product(random(0, 4), x[:0]).equal(torch.zeros(4, 5))
    assert input_product(random(0, 4), weight).shape == (0, 5)


def test_recorded_rules_are_kept_where_they_are_for_this_processor() -> None:
    recorded = always(processor(), "mkl")
    assert chosen({processor(): recorded}) == recorded
    assert chosen({"another": always("another", "mkl")}) == chosen({})


def test_measured_rules_hold_unless_openblas_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    here = processor()
    measured = MEASURED.get(here, always(here, "onednn"))
    if openblas.fits(here):
        assert chosen({}) == measured
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "26")
    assert not openblas.fits(here)
    alone = TORCH_ALONE.get(here, always(here, "onednn"))
    assert chosen({}) == chosen({here: always(here, "openblas")}) == alone
    assert chosen({here: always(here, "mkl")}) == always(here, "mkl")
