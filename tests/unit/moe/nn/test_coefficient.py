"""The adaptive coefficient against the numbers of Skywork-MoE section 4.2 and figure 4."""

import math

import pytest

from moe.config.run import AdaptiveCoefficient, FixedCoefficient
from moe.nn import coefficient

PAPER = AdaptiveCoefficient()


def after(steps: int, drop_rate: float, start: float) -> float:
    alphas = {0: start}
    for _ in range(steps):
        alphas = coefficient.update(PAPER, alphas, {0: drop_rate})
    return alphas[0]


def test_the_defaults_are_the_paper_s() -> None:
    assert (PAPER.xi, PAPER.maximum, PAPER.beta, PAPER.start) == (0.2, 0.01, 0.99, 0.01)


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


def test_layers_follow_their_own_drop_rates() -> None:
    alphas = coefficient.initial(PAPER, range(2, 5))
    assert alphas == {2: 0.01, 3: 0.01, 4: 0.01}
    changed = coefficient.update(PAPER, alphas, {2: 0.0, 3: 0.05, 4: 0.025})
    assert changed == {2: pytest.approx(0.0099), 3: pytest.approx(0.01), 4: pytest.approx(0.00995)}
    assert alphas == {2: 0.01, 3: 0.01, 4: 0.01}


def test_a_fixed_coefficient_stays() -> None:
    rule = FixedCoefficient(type="fixed", value=0.003)
    alphas = coefficient.initial(rule, range(2))
    assert coefficient.update(rule, alphas, {0: 1.0, 1: 0.0}) == {0: 0.003, 1: 0.003}
