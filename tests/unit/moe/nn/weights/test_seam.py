"""Layers and experts take any kind of weight: kinds of our own here compute what dense ones do."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from moe.nn.experts.experts import Experts
from moe.nn.feed_forward import FeedForward
from moe.nn.later import Later
from moe.nn.linear import linear
from moe.nn.weights.dense import Dense
from moe.nn.weights.weight import Gradient, Weight


@dataclass(frozen=True)
class Factored:
    """A frozen matrix plus a trained product of two thin ones: W + B A."""

    base: Tensor
    a_RK: Tensor
    b_NR: Tensor

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self.a_RK, self.b_NR

    def whole(self) -> Tensor:
        return self.base + self.b_NR @ self.a_RK

    def product(self, x_MK: Tensor, bias_N: Tensor | None = None) -> Tensor:
        y = x_MK @ self.base.t() + (x_MK @ self.a_RK.t()) @ self.b_NR.t()
        return y if bias_N is None else y + bias_N

    def input_gradient(self, y_grad_MN: Tensor) -> Tensor:
        return y_grad_MN @ self.base + (y_grad_MN @ self.b_NR) @ self.a_RK

    def gradients(self, x_MK: Tensor, y_grad_MN: Tensor) -> tuple[Gradient, ...]:
        return (
            lambda: (y_grad_MN @ self.b_NR).t() @ x_MK,
            lambda: y_grad_MN.t() @ (x_MK @ self.a_RK.t()),
        )


@dataclass(frozen=True)
class Scaled:
    """Whole numbers of 8 bits and a scale for each row; frozen."""

    codes: Tensor
    scales_N1: Tensor

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return ()

    def whole(self) -> Tensor:
        return self.codes.float() * self.scales_N1

    def product(self, x_MK: Tensor, bias_N: Tensor | None = None) -> Tensor:
        y = (x_MK @ self.codes.float().t()) * self.scales_N1.t()
        return y if bias_N is None else y + bias_N

    def input_gradient(self, y_grad_MN: Tensor) -> Tensor:
        return y_grad_MN @ self.whole()

    def gradients(self, x_MK: Tensor, y_grad_MN: Tensor) -> tuple[Gradient, ...]:
        return ()


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 2


def factored(outputs: int, inputs: int, seed: int) -> Factored:
    return Factored(
        random(outputs, inputs, seed=seed),
        random(2, inputs, seed=seed + 100).requires_grad_(),
        random(outputs, 2, seed=seed + 200).requires_grad_(),
    )


def scaled(outputs: int, inputs: int, seed: int) -> Scaled:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8, generator=generator)
    return Scaled(codes, torch.rand(outputs, 1, generator=generator) / 100)


Made = Callable[[int, int, int], Factored | Scaled]
KINDS = pytest.mark.parametrize("make", [factored, scaled])


@KINDS
@pytest.mark.parametrize("waits", [False, True])
def test_a_linear_layer_takes_any_weight(make: Made, waits: bool) -> None:
    weight, bias = make(5, 7, 0), random(5, seed=9)
    results = []
    for through in ("seam", "autograd"):
        x = random(3, 4, 7, seed=1).requires_grad_()
        later = Later() if waits and through == "seam" else None
        if through == "seam":
            y = linear(x, weight, bias, later)
        else:
            y = torch.nn.functional.linear(x, weight.whole(), bias)
        y.backward(random(3, 4, 5, seed=2))
        if later is not None:
            later.run()
        results.append([y, x.grad, *(each.grad for each in weight.parameters)])
        for each in weight.parameters:
            each.grad = None
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


class OtherExperts(Experts):
    """A bank whose experts have weights of another kind."""

    def __init__(self, hidden_size: int, size: int, numbers: range, make: Made) -> None:
        super().__init__(hidden_size, size, numbers)
        shapes = ((size, hidden_size), (size, hidden_size), (hidden_size, size))
        self.other = {
            number: tuple(
                make(outputs, inputs, 10 * number + place)
                for place, (outputs, inputs) in enumerate(shapes)
            )
            for number in numbers
        }

    def weights(self, number: int) -> tuple[Weight, Weight, Weight]:
        gate, up, down = self.other[number]
        return gate, up, down


@KINDS
@pytest.mark.parametrize("waits", [False, True])
def test_experts_take_any_weight(make: Made, waits: bool) -> None:
    bank = OtherExperts(6, 5, range(3), make)
    dense = Experts(6, 5, range(3))
    with torch.no_grad():
        for number, kinds in bank.other.items():
            expert = dense[str(number)]
            assert isinstance(expert, FeedForward)
            for mine, theirs in zip(expert.weights, kinds, strict=True):
                assert isinstance(mine, Dense)
                mine.value.copy_(theirs.whole())
    chosen = torch.tensor([[0, 1], [2, 0], [1, 2], [0, 2]])
    results = []
    for experts in (bank, dense):
        x = random(4, 6, seed=1).requires_grad_()
        weights = random(4, 2, seed=2).requires_grad_()
        later = Later() if waits and experts is bank else None
        y = experts(x, chosen, weights, torch.ones(4, 2, dtype=torch.bool), later)
        y.backward(random(4, 6, seed=3))
        if later is not None:
            later.run()
        results.append([y, x.grad, weights.grad])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
    for number, kinds in bank.other.items():
        expert = dense[str(number)]
        assert isinstance(expert, FeedForward)
        for mine, theirs in zip(expert.weights, kinds, strict=True):
            assert isinstance(mine, Dense)
            assert mine.value.grad is not None
            if isinstance(theirs, Factored):
                expected = theirs.b_NR.t() @ mine.value.grad, mine.value.grad @ theirs.a_RK.t()
                found = [each.grad for each in theirs.parameters]
                torch.testing.assert_close(found, list(expected), rtol=1e-4, atol=1e-5)
