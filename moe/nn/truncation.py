"""The tokens that may be drawn: the likeliest ones, by number, by mass and by ratio.

``top_k`` keeps so many tokens; the nucleus (Holtzman et al. 2020, section 3.1) keeps the smallest
set of the likeliest whose share of the kept probability reaches ``top_p``; ``min_p`` (Nguyen et al.
2024, section 3) drops tokens below that part of the largest probability. In this order, as in
transformers.

Only candidates are sorted, since a whole vocabulary takes milliseconds: the tokens from the least
of the n likeliest on, where these weigh enough.

Shapes: V vocabulary, N kept tokens.
"""

from torch import Tensor

from moe.config.sampling import Sampling

CANDIDATES = (128, 2048, 16384)
"""Numbers of likeliest tokens among which a nucleus is looked for, before all are sorted."""

ROUNDING = 1e-6
"""By how much the candidates must outweigh ``top_p``, so that rounding does not matter."""


def truncated(probabilities_V: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return the tokens [N] that may be drawn, likeliest first, and their probabilities [N].

    Of equal probabilities the lower token number comes first. One token always remains.
    """
    top_k = sampling.top_k if 0 < sampling.top_k < len(probabilities_V) else 0
    tokens_N, kept_N = _sorted(probabilities_V, _floor(probabilities_V, sampling, top_k))
    whole = 1.0
    if top_k:
        tokens_N, kept_N = tokens_N[:top_k], kept_N[:top_k]
        whole = float(kept_N.sum())
    if sampling.top_p < 1:
        count = int((kept_N.cumsum(0) - kept_N < sampling.top_p * whole).sum())
        kept_N = kept_N[: max(1, count)]
    if sampling.min_p > 0:
        count = int((kept_N >= sampling.min_p * kept_N[0]).sum())
        kept_N = kept_N[: max(1, count)]
    return tokens_N[: len(kept_N)], kept_N


def likeliest(values_V: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest values, largest first, and their tokens; of equal values the
    lower token first.
    """
    if not 0 < count < len(values_V):
        tokens_N, kept_N = _sorted(values_V, None)
    else:
        tokens_N, kept_N = _sorted(values_V, values_V.topk(count).values[-1])
    return tokens_N[:count], kept_N[:count]


def _floor(probabilities_V: Tensor, sampling: Sampling, top_k: int) -> Tensor | None:
    """Return a probability below which no token is kept; None if every token may be."""
    if top_k:
        return probabilities_V.topk(top_k).values[-1]
    if sampling.min_p > 0:
        return probabilities_V.max() * min(1.0, sampling.min_p)
    for count in CANDIDATES:
        if count < len(probabilities_V):
            kept = probabilities_V.topk(count).values
            if float(kept.sum()) > sampling.top_p + ROUNDING:
                return kept[-1]
    return None


def _sorted(values_V: Tensor, floor: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the tokens at or above a floor and their values, in stable order."""
    if floor is None:
        sorted_V, tokens_V = values_V.sort(descending=True, stable=True)
        return tokens_V, sorted_V
    tokens_N = (values_V >= floor).nonzero().flatten()
    sorted_N, order_N = values_V[tokens_N].sort(descending=True, stable=True)
    return tokens_N[order_N], sorted_N
