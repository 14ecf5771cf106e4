"""The values that a run adjusts after every step to keep the experts of a layer balanced.

Skywork-MoE section 4.2, d the drop rate observed::

    alpha_hat = min(xi * d, alpha_max)
    alpha    <- beta * alpha + (1 - beta) * alpha_hat

DeepSeek-V3 section 2.1.2, c_j the (token, expert) pairs of expert j, b_j its bias::

    b_j <- b_j + u * sign(mean(c) - c_j)

Both are plain numbers without gradient, used from the next step on. d and c are taken over one step
of one layer: all micro-batches, all replicas.
"""

from torch import Tensor

from moe.config.balance_state import BalanceState
from moe.config.layer_statistics import LayerStatistics
from moe.config.run import AdaptiveCoefficient, BiasCoefficient, Coefficient
from moe.nn.balance import BalanceLoss


def initial(rule: Coefficient) -> BalanceState:
    """Return the state of a layer before the first step."""
    return BalanceState(rule.start if isinstance(rule, AdaptiveCoefficient) else rule.value)


def update(rule: Coefficient, state: BalanceState, seen: LayerStatistics) -> BalanceState:
    """Return the state of a layer after a step."""
    alpha = state.coefficient
    if isinstance(rule, AdaptiveCoefficient):
        alpha = rule.beta * alpha + (1 - rule.beta) * min(rule.xi * seen.drop_rate, rule.maximum)
    pairs = max(sum(seen.load), 1)
    return BalanceState(alpha, tuple(count / pairs for count in seen.load), seen.probability)


def loss_of(kind: BalanceLoss, state: BalanceState) -> float:
    """Return the balance loss (``moe.nn.balance``) of the step that led to a state."""
    probabilities = state.probabilities
    if kind == "switch":
        pairs = zip(state.shares, probabilities, strict=True)
        return len(probabilities) * sum(share * mean for share, mean in pairs)
    return sum((1 / len(probabilities) - mean) ** 2 for mean in probabilities)


def moved_bias(rule: BiasCoefficient, bias_N: Tensor, load_N: Tensor) -> Tensor:
    """Return the balance bias after a step: it rises for experts below the mean load and falls
    above. ``load_N`` is in float64.
    """
    return bias_N + rule.rate * (load_N.mean() - load_N).sign().to(bias_N.dtype)
