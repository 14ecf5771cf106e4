"""The choice of the next tokens from rows of logits.

The draw inverts the cumulative distribution at one uniform number hashed from (seed, position), so
it depends only on these two and on its own row: not on the device, the plan, earlier draws or the
other rows of a batch.

Shapes: R rows, S positions, V vocabulary, N tokens that may be drawn.
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from moe.config.sampling import SampledToken, Sampling
from moe.errors import CheckpointError, RequestError
from moe.nn.draw import Draw
from moe.nn.penalties import adjusted
from moe.nn.truncation import likeliest, truncated

__all__ = ["Draw", "sample", "score", "uniform"]


def sample(logits_RV: Tensor, draws: Sequence[Draw]) -> list[SampledToken]:
    """Return one token for each row, with natural-log probabilities where they are asked for.

    Probabilities are those of the model, before penalties and temperature, as the OpenAI interface
    reports them. Among equal logits, the lower token number comes first.
    """
    best_R, tokens_R = logits_RV.max(dim=-1)
    _check_numbers(best_R, [draw.position for draw in draws])
    tokens = tokens_R.tolist()
    return [
        SampledToken(tokens[row], 0.0) if draw.plain else _sampled(logits_RV[row], draw)
        for row, draw in enumerate(draws)
    ]


def score(logits_SV: Tensor, tokens_S: Sequence[int], logprobs: int) -> list[SampledToken]:
    """Return given tokens with their log-probabilities and the ``logprobs`` likeliest instead.

    Row s is the model's opinion on token s.
    """
    _check_numbers(logits_SV.max(dim=-1).values, range(len(tokens_S)))
    if logprobs <= 1:
        return _scored(torch.log_softmax(logits_SV.float(), dim=-1), tokens_S, logprobs)
    return [
        _with_logprobs(logits_V, token, logprobs)
        for logits_V, token in zip(logits_SV, tokens_S, strict=True)
    ]


def _scored(logprobs_SV: Tensor, tokens_S: Sequence[int], count: int) -> list[SampledToken]:
    """Return given tokens with at most one alternative, for all rows at once."""
    tokens_S1 = torch.tensor(tokens_S, device=logprobs_SV.device)[:, None]
    found = logprobs_SV.gather(1, tokens_S1)[:, 0].tolist()
    if count == 0:
        return [*map(SampledToken, tokens_S, found)]
    values_S, best_S = logprobs_SV.max(dim=-1)
    tops = (
        ((token, value),) for token, value in zip(best_S.tolist(), values_S.tolist(), strict=True)
    )
    return [*map(SampledToken, tokens_S, found, tops)]


def uniform(seed: int, position: int) -> float:
    """Return a number in [0, 1) with 53 random bits, always the same for a seed and a position."""
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def _sampled(logits_V: Tensor, draw: Draw) -> SampledToken:
    changed_V = logits_V
    if draw.allowed is not None or draw.sampling.adjusts:
        changed_V = adjusted(logits_V, draw)
        _check_one_allowed(changed_V, draw.position)
    token = _choose(changed_V, draw.sampling, draw.position)
    if draw.sampling.logprobs is None:
        return SampledToken(token, 0.0)
    return _with_logprobs(logits_V, token, draw.sampling.logprobs)


def _choose(logits_V: Tensor, sampling: Sampling, position: int) -> int:
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    logits_V = logits_V.double()
    probabilities_V = torch.softmax((logits_V - logits_V.max()) / sampling.temperature, dim=-1)
    at = uniform(sampling.seed, position)
    if sampling.top_p >= 1 and sampling.top_k <= 0 and sampling.min_p <= 0:
        return _invert(probabilities_V, at)
    tokens_N, probabilities_N = truncated(probabilities_V, sampling)
    return int(tokens_N[_invert(probabilities_N, at)])


def _invert(weights_N: Tensor, at: float) -> int:
    """Return the first index whose cumulative weight exceeds the fraction ``at`` of the total."""
    cumulative_N = weights_N.cumsum(0)
    index = int(torch.searchsorted(cumulative_N, at * cumulative_N[-1], right=True))
    return index if index < len(weights_N) else int(weights_N.nonzero()[-1])


def _with_logprobs(logits_V: Tensor, token: int, count: int) -> SampledToken:
    logprobs_V = torch.log_softmax(logits_V.float(), dim=-1)
    logprob = float(logprobs_V[token])
    if count == 0:
        return SampledToken(token, logprob)
    tokens_N, values_N = likeliest(logprobs_V, count)
    top = tuple(zip(tokens_N.tolist(), values_N.tolist(), strict=True))
    return SampledToken(token, logprob, top)


def _check_numbers(best_R: Tensor, positions: Sequence[int]) -> None:
    """Raise CheckpointError for a row whose largest logit is not a finite number."""
    if bool(best_R.isfinite().all()):
        return
    row = int((~best_R.isfinite()).nonzero()[0])
    raise CheckpointError(
        f"the logits at position {positions[row]} are not numbers; the weights are damaged, "
        "or overflow the type they are computed in"
    )


def _check_one_allowed(logits_V: Tensor, position: int) -> None:
    if logits_V.max() == -math.inf:
        raise RequestError(
            f"the grammar of the request allows no token at position {position}; "
            "change the grammar or the schema"
        )
