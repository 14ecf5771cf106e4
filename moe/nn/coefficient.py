"""The coefficient of each layer's balance loss.

Skywork-MoE section 4.2, per layer and step, d the observed drop rate::

    alpha_hat = min(xi * d, alpha_max)
    alpha    <- beta * alpha + (1 - beta) * alpha_hat

It is a plain number without gradient, used from the next step on.
"""

from collections.abc import Mapping

from moe.config.run import AdaptiveCoefficient, FixedCoefficient

Coefficients = dict[int, float]


def initial(rule: AdaptiveCoefficient | FixedCoefficient, layers: range) -> Coefficients:
    """Return the coefficient of each layer before the first step."""
    start = rule.value if isinstance(rule, FixedCoefficient) else rule.start
    return dict.fromkeys(layers, start)


def update(
    rule: AdaptiveCoefficient | FixedCoefficient,
    coefficients: Mapping[int, float],
    drop_rates: Mapping[int, float],
) -> Coefficients:
    """Return the coefficients of the next step, given this step's drop rate of each layer."""
    if isinstance(rule, FixedCoefficient):
        return dict(coefficients)
    return {
        layer: rule.beta * alpha + (1 - rule.beta) * min(rule.xi * drop_rates[layer], rule.maximum)
        for layer, alpha in coefficients.items()
    }
