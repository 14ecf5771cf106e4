"""Products through oneDNN and through torch's own library are the same numbers."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.nn.product import product
from tests.examples import examples

FAST = settings(max_examples=examples(40))
SIZES = st.integers(1, 70)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@FAST
@given(rows=SIZES, outputs=SIZES, inputs=SIZES, turned=st.tuples(st.booleans(), st.booleans()))
def test_a_product_of_any_strides_is_the_product(
    rows: int, outputs: int, inputs: int, turned: tuple[bool, bool]
) -> None:
    x = random(inputs, rows).t() if turned[0] else random(rows, inputs)
    weight = random(inputs, outputs, seed=1).t() if turned[1] else random(outputs, inputs, seed=1)
    expected = (x.double() @ weight.double().t()).float()
    torch.testing.assert_close(product(x, weight), expected, rtol=1e-5, atol=1e-5)
    halves = random(outputs, 2 * inputs, seed=2)[:, inputs:]
    torch.testing.assert_close(product(x, halves), x @ halves.t(), rtol=1e-5, atol=1e-5)


def test_the_same_bits_every_time() -> None:
    x, weight = random(33, 65), random(129, 65, seed=1)
    assert all(torch.equal(product(x, weight), product(x, weight)) for _ in range(5))
