"""Controllers against Skywork-MoE section 4.2 and figure 4, and against DeepSeek-V3's rule."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.balance_state import BalanceState
from moe.config.layer_statistics import LayerStatistics
from moe.config.run import AdaptiveCoefficient, BiasCoefficient, FixedCoefficient
from moe.nn import controller
from moe.nn.balance import BalanceLoss, Spread, balance_loss
from tests.examples import examples
from tests.routed import KINDS

PAPER = AdaptiveCoefficient()
BIAS = BiasCoefficient(type="bias")
FAST = settings(max_examples=examples(40))


def dropping(rate: float) -> LayerStatistics:
    return LayerStatistics(12, (6, 18), (0.3, 0.7), rate, 0.0, 1.0, None, None)


def after(steps: int, drop_rate: float, start: float) -> float:
    state = BalanceState(start)
    for _ in range(steps):
        state = controller.update(PAPER, state, dropping(drop_rate))
    return state.coefficient


def test_the_defaults_are_the_papers() -> None:
    assert (PAPER.xi, PAPER.maximum, PAPER.beta, PAPER.start) == (0.2, 0.01, 0.99, 0.01)
    assert (BIAS.rate, BIAS.value) == (0.001, 0.0)


@pytest.mark.parametrize("start", [0.0, 0.01])
@pytest.mark.parametrize("drop_rate", [0.0, 0.0036, 0.017, 0.05])
def test_the_steady_state_is_xi_times_the_drop_rate(drop_rate: float, start: float) -> None:
    assert after(3000, drop_rate, start) == pytest.approx(0.2 * drop_rate, abs=1e-12)


@pytest.mark.parametrize("drop_rate", [0.05, 0.06, 0.75, 1.0])
def test_it_saturates_at_five_percent_dropped(drop_rate: float) -> None:
    assert after(3000, drop_rate, 0.0) == pytest.approx(0.01)


def test_half_of_a_change_takes_sixty_nine_steps() -> None:
    assert after(68, 0.0, 0.01) > 0.005 > after(69, 0.0, 0.01)


@pytest.mark.parametrize(("steps", "drop_rate"), [(1, 0.02), (7, 0.02), (40, 0.3)])
def test_every_step_follows_the_closed_form(steps: int, drop_rate: float) -> None:
    target = min(0.2 * drop_rate, 0.01)
    expected = target + math.pow(0.99, steps) * (0.004 - target)
    assert after(steps, drop_rate, 0.004) == pytest.approx(expected)


def test_the_state_is_how_the_last_step_spread() -> None:
    before = controller.initial(PAPER)
    assert before == BalanceState(0.01, (), ())
    state = controller.update(PAPER, before, dropping(0.0))
    assert state == BalanceState(pytest.approx(0.0099), (0.25, 0.75), (0.3, 0.7))
    assert before == BalanceState(0.01, (), ())


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_state_is_that_of_its_spread(kind: BalanceLoss) -> None:
    state = BalanceState(0.0, (0.4, 0.3, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4))
    expected = balance_loss(kind, Spread(*torch.tensor([[state.shares], [state.probabilities]])))
    assert controller.loss_of(kind, state) == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (FixedCoefficient(type="fixed", value=0.003), 0.003),
        (BIAS, 0.0),
        (BiasCoefficient(type="bias", value=1e-4), 1e-4),
    ],
)
def test_other_coefficients_stay(rule: FixedCoefficient | BiasCoefficient, value: float) -> None:
    state = controller.update(rule, controller.initial(rule), dropping(1.0))
    assert state == BalanceState(value, (0.25, 0.75), (0.3, 0.7))


def test_a_step_without_tokens_is_finite() -> None:
    nothing = LayerStatistics(0, (0, 0), (0.0, 0.0), 0.0, 0.0, 0.0, None, None)
    state = controller.update(PAPER, BalanceState(0.01), nothing)
    assert state.shares == (0.0, 0.0)
    assert controller.moved_bias(BIAS, torch.ones(2), torch.zeros(2)).tolist() == [1.0, 1.0]


@FAST
@given(
    load=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    rate=st.sampled_from([0.001, 0.1]),
)
def test_the_bias_moves_by_one_rate_against_the_load(load: list[int], rate: float) -> None:
    bias = torch.linspace(-0.3, 0.4, len(load))
    rule = BiasCoefficient(type="bias", rate=rate)
    moved = controller.moved_bias(rule, bias, torch.tensor(load, dtype=torch.float64))
    mean = sum(load) / len(load)
    expected = [
        b + (rate if n < mean else -rate if n > mean else 0.0)
        for b, n in zip(bias.tolist(), load, strict=True)
    ]
    assert moved.tolist() == pytest.approx(expected)
    assert moved.dtype == torch.float32
