"""Linear layers equal torch's, with every gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.nn.later import Later
from moe.nn.linear import Linear, linear
from moe.nn.weights.dense import Dense
from tests.examples import examples

FAST = settings(max_examples=examples(40))
SIZES = st.integers(1, 70)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@FAST
@given(
    batch=st.lists(st.integers(1, 5), min_size=0, max_size=3),
    outputs=SIZES,
    inputs=SIZES,
    bias=st.booleans(),
)
def test_a_linear_layer_equals_torchs_with_every_gradient(
    batch: list[int], outputs: int, inputs: int, bias: bool
) -> None:
    ours = Linear(inputs, outputs, bias=bias)
    theirs = torch.nn.Linear(inputs, outputs, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    results = []
    for layer in (ours, theirs):
        x = random(*batch, 3, inputs).requires_grad_()
        y = layer(x)
        y.backward(random(*y.shape, seed=1))
        results.append([y, x.grad, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_what_needs_no_gradient_gets_none() -> None:
    x, weight = random(4, 3), random(2, 3, seed=1).requires_grad_()
    linear(x, Dense(weight)).sum().backward()
    assert x.grad is None
    frozen = random(2, 3, seed=1)
    x.requires_grad_()
    linear(x, Dense(frozen)).sum().backward()
    torch.testing.assert_close(x.grad, frozen.sum(0).expand(4, 3))


def test_no_rows_and_no_columns_are_no_trouble() -> None:
    assert linear(random(0, 3), Dense(random(2, 3))).shape == (0, 2)
    torch.testing.assert_close(linear(random(2, 0), Dense(random(3, 0))), torch.zeros(2, 3))
    assert linear(random(0, 3), Dense(random(2, 3).requires_grad_())).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_go_through_torch(dtype: torch.dtype) -> None:
    x, weight = random(5, 8).to(dtype), random(3, 8).to(dtype)
    assert torch.equal(linear(x, Dense(weight)), torch.nn.functional.linear(x, weight))


@pytest.mark.parametrize("later", [None, Later()])
def test_rows_decide_the_type_and_every_gradient_has_that_of_its_tensor(
    later: Later | None,
) -> None:
    layer = Linear(8, 3)
    x = random(5, 8).bfloat16().requires_grad_()
    y = layer(x, later)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    if later is not None:
        later.run()
    for tensor in (x, layer.weight, layer.bias):
        assert tensor.grad is not None
        assert tensor.grad.dtype == tensor.dtype


def test_inference_needs_no_graph() -> None:
    layer = Linear(8, 3)
    x = random(2, 5, 8)
    expected = layer(x).detach()
    with torch.inference_mode():
        assert torch.equal(layer(x), expected)
