"""Detects gates that could not learn, from the architecture, before anything is written."""

from moe.config.model import MoeConfig
from moe.errors import ConfigError

_LEAST_NORMALISED = 3


def check_gates(moe: MoeConfig, ties: bool) -> None:
    """Raise ConfigError if new gates would get no gradient, or no useful gradient.

    ``ties``: the gates begin at zero, where all logits of a token are equal.
    """
    if moe.merged:
        _check_merged(ties)
        return
    if moe.gate_norm is not None:
        _check_normalised(moe, moe.gate_norm, ties)
    if ties and moe.top_k < moe.experts:
        raise ConfigError(
            f"a router of zeros lets {moe.experts} experts tie: every token would go to the same "
            f"{moe.top_k} and the others would learn nothing; choose --router normal with "
            "--router-std above 0, or a --top-k that takes all experts"
        )
    if moe.top_k == 1 < moe.experts and moe.renormalise:
        raise ConfigError(
            "with --top-k 1 and renormalised weights the weight is always 1, and the loss gives "
            "the router no gradient; add --no-renormalise, or raise --top-k to 2 or more"
        )


def _check_merged(ties: bool) -> None:
    if ties:
        raise ConfigError(
            "a router of zeros merges all experts with equal weights, and copies with equal "
            "gradients stay equal for ever; choose --router normal with --router-std above 0"
        )


def _check_normalised(moe: MoeConfig, gate_norm: float, ties: bool) -> None:
    if ties:
        raise ConfigError(
            f"gate_norm {gate_norm:g} divides the logits of a token by their deviation, which is 0 "
            "for a router of zeros, and its gradient would be a million times too large; choose "
            "--router normal with --router-std above 0, or remove --gate-norm"
        )
    if moe.experts < _LEAST_NORMALISED:
        raise ConfigError(
            f"gate_norm {gate_norm:g} brings the logits of {moe.experts} experts to the same "
            "values for any router weights, so the router gets no gradient; give at least "
            f"{_LEAST_NORMALISED} experts, or remove --gate-norm"
        )
